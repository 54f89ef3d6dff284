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
#: symbols: of people in capitals (TP53, HLA-DRB1, MT-CO1, C9orf72), of mice and rats with one (Trp53, Actb)
_SYMBOL = re.compile(
    r"[A-Z][A-Z0-9]*(orf\d+)?([-.][A-Z0-9]+)?|[A-Z][a-z]{1,7}\d+[a-z]?\d*(-\w+)?|gene[_-]?\d+", re.ASCII
)
_WORD = re.compile(r"[A-Z][a-z]{2,6}", re.ASCII)
_NUMBERED = re.compile(r"(.*?)[_.-]?\d+")
#: beginnings of numbered names of genes
_GENE_STEMS = ("g", "gene")
#: smallest number of different beginnings of symbols; questionnaires and codes have few (PHQ1, GAD7, E11)
_MANY_STEMS = 20
#: share of the names of mice's genes that may lack a number
_MOST_WORDS = 0.7
#: barcodes of samples and cells, which look like symbols
_BARCODE = re.compile(
    r"(TCGA|GTEX|TARGET|CPTAC|HCM)[-.].+|(GSM|[SED]RR|SAM[NED]A?)\d{4,}|([\w-]+[_#:])?[ACGTN]{10,}([-_.]\w+)?",
)
#: columns beside the samples of a matrix with a gene in each row: identifiers, places, and results of tests
_NO_SAMPLE = re.compile(
    r"(entrez|gene|ensembl|hgnc|refseq)?[ _.-]?(gene)?[ _.-]?(id|name|symbol|length|type|biotype)|entrez|symbol"
    r"|description|chr(om(osome)?)?|start|end|strand|basemean|log2?[ _.-]?(fc|foldchange|cpm)|lfcse"
    r"|p[ _.-]?val(ue)?|adj[ _.]?p[ _.]?val(ue)?|padj|fdr|q[ _.-]?val(ue)?|aveexpr|pct[._][12]|avg_log2?fc",
    re.IGNORECASE,
)
#: rows of counting programs (htseq-count, STAR) below the genes
_NO_GENE = re.compile(r"__\w+|N_(unmapped|multimapping|noFeature|ambiguous)")


def are_barcodes(names: Sequence[str]) -> bool:
    """Whether most names are barcodes of samples or cells (TCGA, GTEx, GEO, 10x)."""
    return sum(bool(_BARCODE.fullmatch(name)) for name in names) > len(names) / 2


def other_than_samples(names: Sequence[str]) -> list[str]:
    """The names of columns that are facts of a gene and no samples, such as ``Entrez_Gene_Id`` and ``padj``."""
    return [name for name in names if _NO_SAMPLE.fullmatch(name)]


def other_than_genes(names: Sequence[str]) -> list[str]:
    """The names of rows that are sums of a counting program, such as ``__no_feature``."""
    return [name for name in names if _NO_GENE.fullmatch(name)]


def are_genes(names: Sequence[str]) -> bool:
    """Whether at least nine of ten names are names of genes; false for fewer than a hundred names.

    Names that are one word with rising numbers (``feature_1``, ``V2``) are not, unless the word is "gene" or "G".
    Symbols begin in many ways.
    """
    if len(names) < MANY_GENES or are_barcodes(names):
        return False
    if sum(bool(_ACCESSION.fullmatch(name)) for name in names) >= 0.9 * len(names):
        return True
    stems = Counter(match.group(1) for name in names if (match := _NUMBERED.fullmatch(name)))
    stem, count = stems.most_common(1)[0] if stems else ("", 0)
    if count >= 0.9 * len(names):
        return stem.lower().rstrip("_-. ") in _GENE_STEMS
    beginnings = {match[0].upper() for name in names if (match := re.match("[A-Za-z]{1,3}", name))}
    symbols = sum(bool(_SYMBOL.fullmatch(name) or _ACCESSION.fullmatch(name)) for name in names)
    words = sum(bool(_WORD.fullmatch(name)) for name in names)
    many = symbols + min(words, _MOST_WORDS * len(names))
    return len(beginnings) >= _MANY_STEMS and many >= 0.9 * len(names)
