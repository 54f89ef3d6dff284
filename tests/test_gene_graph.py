"""Graphs from the files that hold them: what is read, what does not match and is said, and the permuted control."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from monai_diffscore.data.gene_graph import GeneGraph, read_gene_graph
from monai_diffscore.data.gene_sets import REST, GeneSets, read_gene_sets
from monai_diffscore.errors import DataError

GENES = ["TP53", "MDM2", "EGFR", "ENSG00000141510", "CDK4"]


def graph_of(tmp_path: Path, name: str, text: str, **options) -> GeneGraph:
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_gene_graph(file, GENES, **options)


def pairs(graph: GeneGraph) -> list[tuple[str, str]]:
    nodes = [*graph.genes, *graph.sets]
    return [(nodes[a], nodes[b]) for a, b in graph.edges.T.tolist()]


def test_edge_lists_with_weights_and_signs(tmp_path):
    text = "source\ttarget\tweight\tsign\nTP53\tMDM2\t2\t1\nMDM2\tEGFR\t0.5\t-1\nMDM2\tMDM2\t1\t1\nTP53\tNONE\t1\t0\n"
    graph = graph_of(tmp_path, "edges.tsv", text)
    assert pairs(graph) == [("TP53", "MDM2"), ("MDM2", "EGFR")]
    assert graph.weights.tolist() == [2.0, 0.5]
    assert [graph.kinds[k] for k in graph.relations.tolist()] == ["positive", "negative"]
    assert graph.matching.unmatched == ("NONE",)
    assert (graph.matching.links, graph.matching.kept, graph.matching.exact, graph.matching.connected) == (4, 2, 3, 3)
    assert "2 of 4 links kept" in str(graph.matching)


def test_string_links_are_filtered_and_matched_by_aliases(tmp_path):
    text = "protein1 protein2 combined_score\n9606.ENSP1 9606.ENSP2 900\n9606.ENSP1 9606.ENSP3 150\n"
    aliases = tmp_path / "aliases.tsv"
    aliases.write_text("#string_protein_id\tpreferred_name\n9606.ENSP1\tTP53\nENSP2\tMDM2\n9606.ENSP3\tEGFR\n")
    graph = graph_of(tmp_path, "9606.protein.links.v12.0.txt.gz", text, aliases=aliases, minimum_weight=400)
    assert pairs(graph) == [("TP53", "MDM2")]
    assert (graph.matching.exact, graph.matching.by_alias) == (0, 2)
    assert len(pairs(graph_of(tmp_path, "9606.protein.links.v12.0.txt.gz", text, aliases=aliases))) == 2


def test_ensembl_versions_do_not_hide_a_gene(tmp_path):
    graph = graph_of(tmp_path, "edges.csv", "gene1,gene2\nENSG00000141510.17,TP53\n")
    assert pairs(graph) == [("ENSG00000141510", "TP53")]


def test_sif_has_relations_and_several_targets(tmp_path):
    graph = graph_of(tmp_path, "net.sif", "TP53 activates MDM2 EGFR\nMDM2\tinhibits\tTP53\nCDK4\n")
    assert pairs(graph) == [("TP53", "MDM2"), ("TP53", "EGFR"), ("MDM2", "TP53")]
    assert [graph.kinds[k] for k in graph.relations.tolist()] == ["activates", "activates", "inhibits"]


def test_gene_sets_are_nodes_and_small_ones_are_left_out(tmp_path):
    text = "P53_PATHWAY\turl\tTP53\tMDM2,1.0\tABSENT\nCYCLE\turl\tCDK4\tTP53\tTP53\nONE\turl\tEGFR\tABSENT\n"
    graph = graph_of(tmp_path, "sets.gmt", text)
    assert graph.sets == ("CYCLE", "P53_PATHWAY")
    assert sorted(pairs(graph)) == [
        ("CDK4", "CYCLE"), ("MDM2", "P53_PATHWAY"), ("TP53", "CYCLE"), ("TP53", "P53_PATHWAY")
    ]  # fmt: skip


def test_gene_sets_are_modules_in_the_order_of_the_data(tmp_path, caplog):
    (tmp_path / "sets.gmt").write_text("P53\turl\tMDM2\tTP53\tABSENT\nCYCLE\turl\tTP53\tEGFR\nONE\turl\tCDK4\tABSENT\n")
    with caplog.at_level("INFO"):
        sets = read_gene_sets(tmp_path / "sets.gmt", ["TP53", "CDK4", "EGFR", "MDM2", "KRAS"])
    assert sets.members == {"CYCLE": [0, 2], "P53": [0, 3], REST: [1, 4]}
    assert sets.mask.int().tolist() == [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert sets.matching.unmatched == ("ABSENT",)
    assert "1 not, such as ABSENT" in caplog.text
    assert "2 genes in no set" in caplog.text
    again = GeneSets.of(json.loads(json.dumps(sets.as_dict())))
    assert torch.equal(again.mask, sets.mask)
    assert list(again.members) == list(sets.members)
    assert read_gene_sets(None, ["TP53"]) is None
    assert len(read_gene_sets(tmp_path / "sets.gmt", ["TP53", "EGFR", "MDM2"])) == 2  # no gene is left over


def test_gene_sets_that_make_no_modules_are_refused(tmp_path):
    (tmp_path / "all.gmt").write_text("ALL\turl\tTP53\tMDM2\n")
    (tmp_path / "links.csv").write_text("gene1,gene2\nTP53,MDM2\n")
    with pytest.raises(DataError, match="one set that has all genes"):
        read_gene_sets(tmp_path / "all.gmt", ["TP53", "MDM2"])
    with pytest.raises(DataError, match=r"file of gene sets \(.gmt\), got links between genes"):
        read_gene_sets(tmp_path / "links.csv", ["TP53", "MDM2"])
    with pytest.raises(DataError, match="0 of 2 links kept"):
        read_gene_sets(tmp_path / "all.gmt", ["KRAS", "EGFR"])


def test_complexes_are_taken_apart_on_request_alone(tmp_path):
    text = "source_genesymbol,target_genesymbol\nTP53_MDM2,EGFR\n"
    assert pairs(graph_of(tmp_path, "lr.csv", text, complex_separator="_")) == [("TP53", "EGFR"), ("MDM2", "EGFR")]
    with pytest.raises(DataError, match="0 of 1 links"):
        graph_of(tmp_path, "lr.csv", text)


def test_several_files_are_one_graph(tmp_path):
    (tmp_path / "a.tsv").write_text("source\ttarget\nTP53\tMDM2\n")
    (tmp_path / "b.gmt").write_text("SET\turl\tTP53\tEGFR\n")
    graph = read_gene_graph([tmp_path / "a.tsv", tmp_path / "b.gmt"], GENES)
    assert graph.kinds == ("link", "in set")
    assert pairs(graph) == [("TP53", "MDM2"), ("TP53", "SET"), ("EGFR", "SET")]
    assert GeneGraph.of(graph.as_dict()).as_dict() == graph.as_dict()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "A\tB\nTP53\tMDM2\n", "columns of two names.*--graph_columns SOURCE,TARGET"),
        ("a.csv", "source,target,weight\nTP53,MDM2,high\n", "'high' in row 2"),
        ("a.csv", "source,target,weight\nTP53,MDM2,-1\n", "from -1"),
        ("a.csv", "source,target\nTP53,MDM2,3,4\nX\n", "graph"),
        ("a.csv", "source;target\nTP53;MDM2\n", "1 columns"),
        ("a.sif", "TP53 MDM2\n", "2 cells in row 1"),
        ("a.gmt", "SET\turl\n", "2 cells in row 1"),
        ("a.gmt", "SET\tu\tTP53\nSET\tu\tMDM2\n", "'SET' again in row 2"),
        ("a.csv", "source,target\nTp53,Mdm2\n", r"0 of 1 links kept.*Tp53.*--graph_aliases TABLE"),
        ("a.json", "{}", "ending"),
    ],
)
def test_files_without_a_graph_are_refused_with_the_line(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        graph_of(tmp_path, name, text)


def test_columns_and_missing_files_are_named(tmp_path):
    assert len(pairs(graph_of(tmp_path, "a.tsv", "A\tB\nTP53\tMDM2\n", columns=["A", "B"]))) == 1
    with pytest.raises(DataError, match=r"columns \['A', 'C'\]"):
        graph_of(tmp_path, "a.tsv", "A\tB\nTP53\tMDM2\n", columns=["A", "C"])
    with pytest.raises(DataError, match="no such file"):
        read_gene_graph(tmp_path / "none.tsv", GENES)


def test_the_permuted_control_keeps_every_degree_and_little_else():
    torch.manual_seed(0)
    genes, sets, count = 300, 20, 2000
    between = torch.unique(torch.randint(0, genes, (2, count)).sort(0).values, dim=1)
    between = between[:, between[0] != between[1]]
    members = torch.unique(
        torch.stack([torch.randint(0, genes, (400,)), genes + torch.randint(0, sets, (400,))]), dim=1
    )
    relations = torch.cat([torch.randint(0, 2, between.shape[1:]), torch.full(members.shape[1:], 2)])
    graph = GeneGraph(
        tuple(map(str, range(genes))), torch.cat([between, members], 1), torch.ones(len(relations)), relations,
        ("a", "b", "in set"), tuple(f"s{n}" for n in range(sets)),
    )  # fmt: skip
    permuted = graph.permuted(seed=1)
    for kind in range(3):
        of_kind = relations == kind
        degrees = [torch.bincount(g.edges[:, of_kind].flatten(), minlength=genes + sets) for g in (graph, permuted)]
        torch.testing.assert_close(degrees[0], degrees[1])
        kept = {frozenset(e) for e in graph.edges[:, of_kind].T.tolist()}
        now = {frozenset(e) for e in permuted.edges[:, of_kind].T.tolist()}
        assert len(now) == int(of_kind.sum())  # no loop, no edge twice
        assert len(kept & now) < 0.2 * len(kept)
    sides = permuted.edges[:, relations == 2]
    assert (sides[0] < genes).all()
    assert (sides[1] >= genes).all()
    assert (permuted.edges == graph.permuted(seed=1).edges).all()
    assert (permuted.edges != graph.permuted(seed=2).edges).any()
