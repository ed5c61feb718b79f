from __future__ import annotations

from pathlib import Path

import pytest

from serve_core.config.load import load_file, load_text
from serve_core.errors import ConfigInvalidError

GOOD = """
applications:
  - name: digits
    import_path: examples.app:app
    deployments:
      - name: Classifier
        num_replicas: 2
        memory: 512Mi
        env: {LEVEL: "1"}
        slot_ttl_s: 3
  - name: other
    deployments:
      - name: A
        import_path: pkg.mod:A
        args: [1, {$deployment: B}]
      - name: B
        import_path: pkg.mod:B
"""

GANG = """
applications:
  - name: a
    deployments:
      - name: A
        import_path: m:A
        num_replicas: 4
        gang: {size: 2, placement: STRICT_SPREAD, roles: [a, b]}
        node_labels: {disk: ssd}
        bundles: [{cpus: 0.5}]
        actors:
          - name: cache
            import_path: m:Cache
            args: [1000]
            memory: 512Mi
            shared: deployment
"""


def wrong(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigInvalidError) as caught:
        load_text(text, source="serve.yaml")
    return [(violation.field, violation.description) for violation in caught.value.violations]


def one(options: str) -> str:
    return f"applications: [{{name: a, deployments: [{{name: A, import_path: 'm:A', {options}}}]}}]\n"


def test_a_good_file_is_read() -> None:
    digits, other = load_text(GOOD, source="serve.yaml").applications
    assert digits.import_path == "examples.app:app"
    assert digits.deployments[0].memory == 512 * 1024 * 1024
    assert digits.deployments[0].slot_ttl_s == 3.0
    assert digits.deployments[0].model_fields_set == {"name", "num_replicas", "memory", "env", "slot_ttl_s"}
    assert other.deployments[0].args == [1, {"$deployment": "B"}]


def test_json_is_accepted_too() -> None:
    text = '{"applications": [{"name": "a", "import_path": "m:app"}]}'
    assert load_text(text, source="serve.json").applications[0].name == "a"


def test_all_errors_come_at_once_each_with_its_place() -> None:
    found = wrong(
        "applications:\n"
        "  - name: 1x\n"
        "    import_path: nowhere\n"
        "    deployments:\n"
        "      - name: A\n"
        "        num_replica: 2\n"
        '        num_replicas: "3"\n'
        "        memory: 512Mx\n"
        "      - cpus: -1\n"
    )
    assert [field for field, _ in found] == [
        "serve.yaml:2:5: applications[0].name",
        "serve.yaml:3:5: applications[0].import_path",
        "serve.yaml:6:9: applications[0].deployments[0].num_replica",
        "serve.yaml:7:9: applications[0].deployments[0].num_replicas",
        "serve.yaml:8:9: applications[0].deployments[0].memory",
        "serve.yaml:9:9: applications[0].deployments[1].cpus",
        "serve.yaml:9:9: applications[0].deployments[1].name",
    ]
    descriptions = dict(found)
    assert descriptions["serve.yaml:6:9: applications[0].deployments[0].num_replica"] == (
        "unknown key 'num_replica'; did you mean 'num_replicas'?"
    )
    assert "no amount of memory" in descriptions["serve.yaml:8:9: applications[0].deployments[0].memory"]
    assert descriptions["serve.yaml:9:9: applications[0].deployments[1].name"] == "is missing"


def test_an_unknown_key_at_the_top_is_refused() -> None:
    assert wrong("application: []\n") == [
        ("serve.yaml:1:1: applications", "is missing"),
        ("serve.yaml:1:1: application", "unknown key 'application'; did you mean 'applications'?"),
    ]


def test_a_key_that_is_given_twice_is_refused() -> None:
    text = "applications:\n  - name: a\n    import_path: m:app\n    name: b\n"
    assert wrong(text) == [("serve.yaml:4:5: applications[0].name", "is given twice")]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("applications: [", "is no YAML"),
        ("", "is empty"),
        ("applications: []\n", "at least 1"),
        ("applications:\n  - name: a\n", "needs an import_path"),
        ("applications:\n  - name: a\n    deployments: [{name: A}]\n", "these deployments need one: A"),
        (
            "applications:\n  - name: a\n    ingress: C\n    deployments: [{name: A, import_path: 'm:A'}]\n",
            "ingress 'C' is none of the deployments: A",
        ),
        (
            "applications:\n  - name: a\n    import_path: m:app\n    deployments: [{name: A}, {name: A}]\n",
            "listed twice: A",
        ),
        (
            "applications: [{name: a, import_path: 'm:a'}, {name: a, import_path: 'm:a'}]\n",
            "applications are listed twice: a",
        ),
        (
            "applications: [{name: a, import_path: 'm:a', deployments: [{name: A, args: [1]}]}]\n",
            "args and kwargs need an import_path",
        ),
        (
            "applications: [{name: a, import_path: 'm:a', deployments: [{name: A, import_path: 'm:A', slot_ttl_s: 100}]}]\n",
            "longer than slot_ttl_max_s",
        ),
        (
            "applications: [{name: a, import_path: 'm:a', deployments: [{name: A, gpus: 1.5}]}]\n",
            "neither a whole number nor below 1",
        ),
        ("applications: !!python/object:os.system {}\n", "is no YAML"),
        (one("num_replicas: 7, gang: {size: 4}"), "7 is no multiple of gang.size = 4; the nearest are 4 and 8"),
        (one("gang: {size: 4}"), "1 is no multiple of gang.size = 4; the nearest are 0 and 4"),
        (one("num_replicas: 4, gang: {size: 4}, env: {RANK: '1'}"), "env: 'RANK' cannot be set: the gang sets it"),
        (one("gang: {roles: [a, b]}"), "roles name 2 of 1 ranks"),
        (one("gang: {roles: ['9']}"), "should be a letter followed by"),
        (
            one("gang: {placement: pack}"),
            "input should be 'PACK', 'SPREAD', 'STRICT_PACK' or 'STRICT_SPREAD', not 'pack'",
        ),
        (one("gang: {sise: 4}"), "unknown key 'sise'; did you mean 'size'?"),
        (one("env: {SERVE_CORE_RUN: x}"), "SERVE_CORE_* is for serve-core itself"),
        (one("node_labels: {'a b': x}"), "the name 'a b' must be up to 127 letters"),
        (one("bundles: [{gpus: 1.5}]"), "neither a whole number nor below 1"),
        (one("bundles: [{}]"), "holds nothing"),
        (one("actors: [{name: cache}]"), "is missing"),
        (one("actors: [{name: a, import_path: 'm:A'}, {name: a, import_path: 'm:B'}]"), "actors are listed twice: a"),
        (
            one("actors: [{name: a, import_path: 'm:A', snapshot_interval_s: 5}]"),
            "snapshot_interval_s needs on_failure: RESTART_FROM_SNAPSHOT, not RESTART",
        ),
        (one("actors: [{name: a, import_path: 'm:A', max_conc: 5}]"), "unknown key 'max_conc'; did you mean"),
    ],
)
def test_what_is_wrong_is_said(text: str, part: str) -> None:
    found = wrong(text)
    assert len(found) == 1
    assert found[0][0].startswith("serve.yaml")
    assert part in found[0][1]


def test_all_that_does_not_go_together_is_said() -> None:
    found = wrong(one("num_replicas: 3, gang: {size: 2}, env: {RANK: '1'}, slot_ttl_s: 100"))
    assert len(found) == 1
    for part in ("longer than slot_ttl_max_s", "3 is no multiple of gang.size = 2", "'RANK' cannot be set"):
        assert part in found[0][1]


@pytest.mark.parametrize("options", ["gang: {size: 4}", "num_replicas: 3", "slot_ttl_s: 100", "env: {RANK: '1'}"])
def test_an_override_is_judged_with_what_it_overrides(options: str) -> None:
    text = f"applications: [{{name: a, import_path: 'm:a', deployments: [{{name: A, {options}}}]}}]\n"
    load_text(text, source="serve.yaml")


def test_gangs_labels_bundles_and_actors_are_read() -> None:
    deployment = load_text(GANG, source="serve.yaml").applications[0].deployments[0]
    assert (deployment.gang.size, deployment.gang.placement, deployment.gang.roles) == (2, "STRICT_SPREAD", ["a", "b"])
    assert deployment.node_labels == {"disk": "ssd"}
    assert [bundle.cpus for bundle in deployment.bundles] == [0.5]
    (cache,) = deployment.actors
    assert (cache.name, cache.args, cache.memory, cache.shared) == ("cache", [1000], 512 * 2**20, "deployment")


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "more than" in wrong("\n".join(lines))[0][1]


def test_words_that_older_yaml_takes_for_booleans_are_text() -> None:
    text = "applications: [{name: no, import_path: 'm:a', deployments: [{name: on, env: {A: yes}}]}]"
    application = load_text(text, source="serve.yaml").applications[0]
    assert (application.name, application.deployments[0].name) == ("no", "on")
    assert application.deployments[0].env == {"A": "yes"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalidError, match=r"nowhere\.yaml: No such file"):
        load_file(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigInvalidError, match="is not UTF-8 text"):
        load_file(path)


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_file_says_what_it_needs(text: str) -> None:
    with pytest.raises(ConfigInvalidError, match="is empty: it needs 'applications'"):
        load_text(text, source="serve.yaml")


@pytest.mark.parametrize(
    ("options", "field", "description"),
    [
        ("gang: 2", "gang", "should be a mapping of names to values, not 2"),
        ("gang: null", "gang", "should be a mapping of names to values, not None"),
        ("node_labels: [a]", "node_labels", "should be a mapping of names to values, not ['a']"),
        ("max_surge: 2.5", "max_surge", "should be a number of replicas, or a percentage such as '25%', not 2.5"),
        ("max_surge: true", "max_surge", "should be a number of replicas, or a percentage such as '25%', not True"),
    ],
)
def test_what_is_of_another_kind_is_refused_in_the_words_of_the_file(
    options: str, field: str, description: str
) -> None:
    assert wrong(one(options)) == [(f"serve.yaml:1:70: applications[0].deployments[0].{field}", description)]
