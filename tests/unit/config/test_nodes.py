from __future__ import annotations

from pathlib import Path

import pytest

from serve_core.config.nodes import load_nodes
from serve_core.errors import ConfigInvalidError
from serve_core.model.resources import Resources

GOOD = """
nodes:
  - id: a
    zone: z1
    labels: {gpu: a100}
    resources: {cpus: 4, gpus: 2, memory: 8Gi, custom: {licence: 1.5}}
  - id: b
    resources: {cpus: 2, gpus: 1}
"""


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nodes.yaml"
    path.write_text(text)
    return path


def _wrong(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigInvalidError) as caught:
        load_nodes(_file(tmp_path, text))
    return [f"{one.field.removeprefix(str(tmp_path))}: {one.description}" for one in caught.value.violations]


def test_a_file_says_what_each_node_offers(tmp_path: Path) -> None:
    first, second = load_nodes(_file(tmp_path, GOOD))
    assert first.total == Resources(cpus=4.0, gpus=2.0, memory_bytes=8 * 2**30, custom={"licence": 1.5})
    assert (first.node_id, first.zone, first.labels) == ("a", "z1", {"gpu": "a100"})
    assert second.total == Resources(cpus=2.0, gpus=1.0)


def test_the_nodes_divide_the_gpus_of_the_machine(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD)
    assert [offer.gpu_ids for offer in load_nodes(path, gpu_ids=("4", "5", "6", "7"))] == [("4", "5"), ("6",)]
    assert [offer.gpu_ids for offer in load_nodes(path, gpu_ids=("4",))] == [("0", "1"), ("2",)], "none is real"


def test_everything_that_is_wrong_is_listed_with_its_place(tmp_path: Path) -> None:
    text = """
nodes:
  - id: "-a"
    label: {}
    resources: {cpus: -1, gpus: 0.5}
  - resources: {cpus: 0.00001, memory: many}
"""
    wrong = _wrong(tmp_path, text)
    assert [one.split(": ")[1] for one in wrong] == [
        "nodes[0].id",
        "nodes[0].label",
        "nodes[0].resources.cpus",
        "nodes[0].resources.gpus",
        "nodes[1].id",
        "nodes[1].resources.cpus",
        "nodes[1].resources.memory",
    ]
    assert wrong[1] == "/nodes.yaml:4:5: nodes[0].label: unknown key 'label'; did you mean 'labels'?"
    assert wrong[5].endswith("should be in steps of 0.0001, not 1e-05")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: it needs 'nodes'"),
        ("nodes: []", "nodes: list should have at least 1 item"),
        ("nodes: [{id: a, resources: {}}, {id: a, resources: {}}]", "nodes: are listed twice: a"),
        ("nodes: [{id: a, id: b, resources: {}}]", "nodes[0].id: is given twice"),
        ("nodes: [{id: a}]", "nodes[0].resources: is missing"),
        ("nodes: {", "is no YAML"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert any(said in one for one in _wrong(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match="No such file"):
        load_nodes(tmp_path / "none.yaml")
