"""Recognises names of genes, which distinguish an expression matrix from a table of other numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

#: smallest number of names that are recognised as genes
MANY_GENES = 100
_ACCESSION = re.compile(
    r"ENS[A-Z]*[GTP]\d{6,}(\.\d+)?|\d+(_[a-z])?_at|AFFX-.*|ILMN_\d+|[NX][MRP]_\d+(\.\d+)?|FBgn\d+|AT\dG\d{5}"
    r"|[a-z]{3}-(miR|mir|let)-[\w-]+|cg\d{8}(_\w+)?"  # micro-RNA, methylation
    r"|[OPQ]\d[A-Z0-9]{3}\d(-\d+)?|[A-NR-Z]\d([A-Z][A-Z0-9]{2}\d){1,2}(-\d+)?"  # proteins in UniProt
)
#: symbols: of people in capitals (TP53, HLA-DRB1, MT-CO1, C9orf72), of mice and rats with one (Trp53)
_SYMBOL = re.compile(
    r"[A-Z][A-Z0-9]*(orf\d+)?([-.][A-Z0-9]+)*|[A-Z][a-z]{1,7}\d+[a-z]?\d*(-\w+)?|gene[_-]?\d+", re.ASCII
)
_NUMBERED = re.compile(r"(.*?)[_.-]?\d+")
#: beginnings of numbered names of genes
_GENE_STEMS = ("g", "gene")


def are_genes(names: Sequence[str]) -> bool:
    """Whether at least nine of ten names are names of genes; false for fewer than a hundred names.

    Names that are one word with rising numbers (``feature_1``, ``V2``) are not, unless the word is "gene" or "G".
    """
    if len(names) < MANY_GENES:
        return False
    if sum(bool(_ACCESSION.fullmatch(name)) for name in names) >= 0.9 * len(names):
        return True
    stems = Counter(match.group(1) for name in names if (match := _NUMBERED.fullmatch(name)))
    stem, count = stems.most_common(1)[0] if stems else ("", 0)
    if count >= 0.9 * len(names):
        return stem.lower().rstrip("_-. ") in _GENE_STEMS
    return sum(bool(_SYMBOL.fullmatch(name) or _ACCESSION.fullmatch(name)) for name in names) >= 0.9 * len(names)
