# SPDX-License-Identifier: GPL-3.0-or-later
"""rbee.yaml to a Spec: defaults, sugar, and every problem at once with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rbee.adapters import cel
from rbee.adapters.yaml_source import YamlFiles
from rbee.cli.views.problems import human
from rbee.core.problems import Problem, ProblemsError
from rbee.core.spec import Replicas, Ssh
from rbee.fleet.load import Loaded, load

ROOT = Path(__file__).parents[2]
ENGINES = ROOT / "providers" / "engines"
SOURCES = ROOT / "providers" / "sources"
GOLDENS = Path(__file__).parent / "goldens"

HEAD = "version: 1\nfleet: home\n"
ONE = HEAD + "hives: {here: {}}\nmodels: {m: {source: 'builtin:bee-tiny'}}\n"
TWO = HEAD + (
    "hives:\n  here: {labels: {power: quiet, ssd: 'yes'}}\n  far: {ssh: far, labels: {power: loud}}\n"
    "models: {m: {source: 'builtin:bee-tiny'}, other: {source: 'hf:mlc-ai/X-MLC'}}\n"
)


def one(keys: str) -> str:
    return ONE + f"workers: {{w: {{model: m, {keys}}}}}"


def two(keys: str) -> str:
    return TWO + f"workers: {{w: {{model: m, {keys}}}}}"


def model(source: str) -> str:
    return HEAD + f"models: {{m: {{source: {source}}}}}"


def read(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None, **more: Any) -> Loaded:
    path = tmp_path / "rbee.yaml"
    path.write_text(text)
    given: dict[str, Any] = {
        "files": YamlFiles(),
        "home": Path("/home/bee"),
        "provider_dirs": [ENGINES],
        "source_dirs": [SOURCES],
        **more,
    }
    return load(path, environment or {}, **given)


def problems(tmp_path: Path, text: str, **more: Any) -> list[Problem]:
    with pytest.raises(ProblemsError) as e:
        read(tmp_path, text, **more)
    return list(e.value.problems)


def told(tmp_path: Path, text: str, **more: Any) -> list[str]:
    """`LINE:COLUMN what. why. mend.` of every problem."""
    out = []
    for p in problems(tmp_path, text, **more):
        assert p.where is not None
        out.append(" ".join([f"{p.where.line}:{p.where.column}", *(t for t in (p.summary, p.detail, p.mend) if t)]))
    return out


def test_the_shortest_file_is_a_fleet(tmp_path: Path) -> None:
    loaded = read(tmp_path, HEAD + "hives:\nmodels:\nworkers:\nqueen:\ndefaults:\naliases:\npolicies:\n")
    assert (loaded.spec.fleet, loaded.spec.hives, loaded.spec.workers) == ("home", {}, {})
    assert loaded.spec.queen.listen == "127.0.0.1:7833"
    assert list(loaded.providers) == ["llama-cpp"]


def test_defaults_are_merged_option_by_option(tmp_path: Path) -> None:
    loaded = read(
        tmp_path,
        ONE + "defaults: {device: cpu, engine: llama-cpp, options: {parallel: 2, threads: 4}, idle_timeout: 1h}\n"
        "workers:\n  a: {model: m, options: {parallel: 8}}\n  b: {model: m, device: auto, idle_timeout: null}\n",
    )
    a, b = loaded.spec.workers["a"], loaded.spec.workers["b"]
    assert (a.device, a.engine, a.options.parallel, a.options.threads) == ("cpu", "llama-cpp", 8, 4)
    assert (a.idle_timeout, a.hive, a.name) == (3600.0, "here", "a")
    assert (b.device, b.options.parallel, b.idle_timeout) == ("auto", 2, None)
    assert loaded.spec.defaults.idle_timeout == 3600.0


def test_sugar_is_resolved_and_paths_are_absolute(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_text("")
    loaded = read(
        tmp_path,
        HEAD + "queen: {token_file: ../token}\n"
        "hives: {far: {ssh: far}, c: {ssh: 'bee@[::1]:23'}, d: {ssh: '::1'},"
        " b: {ssh: {host: '${env.B}', identity_file: ~/.ssh/id}}}\n"
        f"models: {{a: {{source: 'file:models/a.gguf'}}, b: {{source: 'file://{tmp_path}/models/./a.gguf'}}}}\n"
        "aliases: {x: a}\n",
        {"B": "b.local"},
    )
    spec = loaded.spec
    assert spec.queen.token_file == str(tmp_path.parent / "token")
    assert spec.hives["far"].ssh == Ssh(host="far")
    assert spec.hives["c"].ssh == Ssh(host="::1", user="bee", port=23)
    assert spec.hives["d"].ssh == Ssh(host="::1")
    assert spec.hives["b"].ssh == Ssh(host="b.local", identity_file="/home/bee/.ssh/id")
    assert spec.models["a"].source == spec.models["b"].source == f"file:{tmp_path}/models/a.gguf"
    assert spec.models["a"].name == "a"
    assert spec.aliases["x"] == ("a",)


def test_aliases_of_aliases_come_to_models_in_order(tmp_path: Path) -> None:
    text = TWO + "aliases: {x: [y, m], y: [z, other], z: m}\n"
    assert read(tmp_path, text).spec.aliases == {"x": ("m", "other"), "y": ("m", "other"), "z": ("m",)}


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("2", 2, 2),
        ("0", 0, 0),
        ("{min: 0, max: 4}", 0, 4),
        ("{min: 3}", 3, 3),
        ("{min: 0}", 0, 1),
        ("{max: 4}", 1, 4),
        ("{max: 0}", 0, 0),
        ("{}", 1, 1),
        ("null", 1, 1),
    ],
)
def test_replicas_are_a_number_or_from_a_least_to_a_most(tmp_path: Path, said: str, least: int, most: int) -> None:
    assert read(tmp_path, one(f"replicas: {said}")).spec.workers["w"].replicas == Replicas(min=least, max=most)


def test_the_digest_is_of_what_the_file_means(tmp_path: Path) -> None:
    first = read(tmp_path, ONE + "workers: {w: {model: m}}\n")
    same = read(tmp_path, "# words\n" + ONE + "workers:\n  w:\n    model: m\n    hive: here\n")
    other = read(tmp_path, one("replicas: 2"))
    assert first.digest == same.digest != other.digest
    assert first.digest != read(tmp_path, ONE + "workers: {w: {model: m}}\n", provider_dirs=[]).digest


def test_things_are_found_again_in_the_file(tmp_path: Path) -> None:
    loaded = read(tmp_path, ONE)
    assert str(loaded.where("hives", "here")).endswith("rbee.yaml:3:9")
    assert str(loaded.where("models", "m", "source", key=False)).endswith("rbee.yaml:4:22")


def test_an_example_of_every_key_loads() -> None:
    for path in (ROOT / "rbee.yaml.example", ROOT / "examples" / "demo" / "rbee.yaml"):
        loaded = load(
            path, {}, files=YamlFiles(), home=Path("/home/bee"), provider_dirs=[ENGINES], compile=cel.compiler()
        )
        assert all("policies" not in w.subject for w in loaded.warnings)
    assert loaded.warnings == ()  # of the last one, the demo's


def test_all_problems_of_a_bad_file_come_at_once() -> None:
    """Golden: goldens/bad.txt is what a person sees for goldens/bad.yaml."""
    source = GOLDENS / "bad.yaml"
    with pytest.raises(ProblemsError) as e:
        load(source, {}, files=YamlFiles(), home=Path("/home/bee"), provider_dirs=[ENGINES], source_dirs=[SOURCES])
    text = human(e.value.problems).replace(f"{GOLDENS}/", "")
    assert _without_colours(text) == (GOLDENS / "bad.txt").read_text().rstrip("\n")
    assert "sk-this-is-a-secret" not in text


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "1:1 The file must be a mapping, not a list. The whole of rbee.yaml. `rbee init` writes one"),
        ("just words", "1:1 The file must be a mapping, not 'just words'. The whole of rbee.yaml."),
        ("version: 2\nfleet: a", "1:10 `version`: 2 is too large; the most is 1. Version of this file's format: 1."),
        ("version: 1", "1:1 The file does not say `fleet`. Name of the fleet; it marks all that rbee makes. Add"),
        ("version: 1\nflet: a", "2:1 Unknown key 'flet' in the file. Did you mean 'fleet'?"),
        ("version: 1\nfleet: 12", '2:8 `fleet` must be a text, not 12. Name of the fleet; it marks'),
        ('version: 1\nfleet: "a\\n"', "2:8 `fleet`: 'a\\n' is not possible. Letters, digits"),
        (HEAD + "queen: {listen: '7833'}", "3:17 `queen.listen`: '7833' is not possible. An address is HOST:PORT"),
        (HEAD + "queen: {listen: 'x:99999'}", "3:17 x:99999 has no such port. Ports are 1 to 65535."),
        (HEAD + "queen: {token: abc}", "3:9 Unknown key 'token' in `queen`. A secret is never written in this file"),
        (HEAD + "queen: {hives: {}}", "3:9 Unknown key 'hives' in `queen`. `hives:` belongs at the top of the file"),
        (HEAD + "hives: [here]", "3:8 `hives` must be a mapping, not a list. Machines, by name. Write the keys"),
        (HEAD + "hives: {a b: {}}", "3:9 'a b' cannot be a name."),
        (HEAD + "hives: {a: {ssh: }}", "3:18 `hives.a.ssh` must be a text or a mapping, not nothing."),
        (HEAD + "hives: {a: {ssh: {user: x}}}", "3:13 `hives.a.ssh` does not say `host`."),
        (HEAD + "hives: {a: {ssh: {host: x, port: '22'}}}", "3:34 `hives.a.ssh.port` must be a whole number, not"),
        (HEAD + "hives: {a: {ssh: {host: x, port: 70000}}}", "3:34 `hives.a.ssh.port`: 70000 is too large; the most"),
        (HEAD + "hives: {a: {ssh: {host: ''}}}", "3:25 `hives.a.ssh.host`: '' is not possible. One word"),
        (HEAD + "hives: {a: {ssh: {host: -oX}}}", "3:25 `hives.a.ssh.host`: '-oX' is not possible. One word"),
        (HEAD + "hives: {a: {ssh: 'e:70000'}}", "3:18 e:70000 has no such port. Ports are 1 to 65535."),
        (HEAD + "hives: {a: {ssh: a b}}", "3:18 `hives.a.ssh`: 'a b' is not possible. Write a Host of"),
        (HEAD + "hives: {a: {}, b: {}}", "3:16 The hives 'a' and 'b' are both this machine."),
        (HEAD + "hives: {a: {ssh: X}, b: {ssh: {host: x.}}}", "3:31 The hives 'a' and 'b' are the same machine."),
        (HEAD + "hives: {a: {labels: {gpu: 4090}}}", "3:27 `hives.a.labels.gpu` must be a text, not 4090. Put it in"),
        (HEAD + "hives: {a: {worker_ports: 9999-9300}}", "3:27 9999-9300 ends before it begins. Write 9300-9999."),
        (HEAD + "hives: {a: {worker_ports: 0-70000}}", "3:27 0-70000 has no such ports. Ports are 1 to 65535."),
        (HEAD + "hives: {a: {ssh: a, listen: 'localhost:1'}}", "3:29 The queen cannot reach localhost:1 on another"),
        (HEAD + "hives: {a: {listen: '127.0.0.1:7833'}}", "3:21 The queen and the hive 'a' both listen on port 7833"),
        (HEAD + "hives: {a: {}}\nqueen: {listen: '0.0.0.0:7835'}", "4:17 The queen and the hive 'a' both listen"),
        (HEAD + "hives: {a: {}}\nqueen: {listen: '[::1]:9300'}", "4:17 The queen's port 9300 is one of the workers'"),
        (model("'hff:a/b'"), "3:22 'hff:a/b' is no source of models. Did you mean 'hf:'?"),
        (model("'a.gguf'"), "3:22 'a.gguf' is no source of models. Did you mean 'file:a.gguf'? Write hf:"),
        (model("'hf:a'"), "3:22 'a' names no repository and no file of one."),
        (model("'builtin:bee'"), "3:22 There is no built-in model 'bee'."),
        (model("'file:no.gguf'"), "3:22 There is no such model file."),
        (model("'file:.'"), "3:22 The model file is a directory."),
        (model("'https://h'"), "3:22 The URL names no file."),
        (model("'https://a:b@h/m.gguf'"), "3:22 The URL has a login in it."),
        (model("'http://h/m.gguf'"), "3:22 http: asks for a digest."),
        (model("'https://h/m', revision: x"), "3:37 `revision` is for sources of Hugging Face only."),
        (model("'https://h/m', sha256: abc"), "3:45 `models.m.sha256`: 'abc' is not possible."),
        (HEAD + "models: {m: }", "3:13 `models.m` must be a mapping, not nothing."),
        (HEAD + "models: {m: {}}", "3:10 `models.m` does not say `source`."),
        (HEAD + "workers: {w: {model: m, hive: h}}\nmodels: {m: {source: 'https://h/m'}}", "3:31 There is no hive"),
        (HEAD + "workers: {w: {model: m}}\nmodels: {m: {source: 'https://h/m'}}", "3:11 No hive can run 'w'."),
        (ONE + "workers: {w: {model: mm}}", "5:22 There is no model 'mm'. Did you mean 'm'?"),
        (one("hive: ther"), "5:31 There is no hive 'ther'."),
        (one("engine: lama-cpp"), "5:33 There is no engine 'lama-cpp'."),
        (ONE + "workers: {w: {modl: m}}", "5:15 Unknown key 'modl' in `workers.w`. Did you mean 'model'?"),
        (one("threads: 2"), "5:25 Unknown key 'threads' in `workers.w`. It belongs in `options:`"),
        (one("xyzzy: 2"), "5:25 Unknown key 'xyzzy' in `workers.w`. Known: device, engine"),
        (one("api_key: 2"), "5:25 Unknown key 'api_key' in `workers.w`. A secret is never"),
        (one("device: gpu"), "5:33 `workers.w.device`: 'gpu' is not possible. A device is"),
        (one("device: cdua:0"), "5:33 `workers.w.device`: 'cdua:0' is not possible. A device is"),
        (one("device: 'rocm:0'"), "5:33 No engine runs gguf models on rocm."),
        (one("device: 'rocm:0', engine: llama-cpp"), "5:33 The engine 'llama-cpp' cannot run on"),
        (one("replicas: -1"), "5:35 `workers.w.replicas`: -1 is too small; the least is 0."),
        (one("replicas: yes"), "5:35 `workers.w.replicas` must be a whole number or a mapping, not 'yes'."),
        (one("replicas: true"), "5:35 `workers.w.replicas` must be a whole number or a mapping, not true."),
        (one("replicas: '2'"), "5:35 `workers.w.replicas` must be a whole number or a mapping, not '2'."),
        (one("replicas: {min: 3, max: 2}"), "5:49 `max` is 2, less than `min`, which is 3."),
        (one("replicas: {min: 0, max: 701}"), "3:9 701 workers go to 'here', which has fewer ports for"),
        (one("replicas: {most: 2}"), "5:36 Unknown key 'most' in `workers.w.replicas`."),
        (one("replicas: 701"), "3:9 701 workers go to 'here', which has fewer ports for"),
        (one("idle_timeout: 5 min"), "5:39 `workers.w.idle_timeout`: '5 min' is not possible."),
        (one("idle_timeout: -5"), "5:39 `workers.w.idle_timeout`: -5 is too small"),
        (one("idle_timeout: [5]"), "5:39 `workers.w.idle_timeout` must be a text or a number"),
        (one("hive: here, where: {}"), "5:37 The worker 'w' says both `hive` and `where`."),
        (TWO + "workers: {w: {model: m}}", "7:11 The worker 'w' has no hive. Write `hive: far` (of far, here)"),
        (two("where: {labels: {power: lout}}"), "7:49 No hive has the label power: lout. Did you"),
        (two("where: {labels: {pwer: x}}"), "7:48 No hive has the label pwer: x."),
        (two("where: {labels: {power: loud, ssd: 'yes'}}"), "7:41 No one hive has all of power"),
        (two("where: {labels: {power: loud}}, replicas: 999"), "7:67 999 replicas, but the hives"),
        (TWO + "workers: {w: {model: other, hive: far}}", "7:22 No engine reads mlc models."),
        (TWO + "workers: {w: {model: other, hive: far, engine: llama-cpp}}", "7:48 The engine 'llama-cpp' cannot read"),
        (ONE + "aliases: {m: m}", "5:11 The alias 'm' is a model's name too."),
        (ONE + "aliases: {x: n}", "5:14 There is no model 'n'."),
        (ONE + "aliases: {x: x}", "5:14 The aliases go in a circle: x -> x."),
        (ONE + "aliases: {x: y, y: [z, m], z: x}", "5:14 The aliases go in a circle: x -> y -> z -> x."),
        (ONE + "aliases: {x: []}", "5:14 `aliases.x` needs at least 1 item."),
        (ONE + "aliases: {x: [m, m]}", "5:14 `aliases.x` has an item twice."),
        (ONE + "aliases: {x: m}\nworkers: {w: {model: x}}", "6:22 'x' is an alias; a worker runs a model."),
        (ONE + "policies: {p: {models: m}}", "5:24 `policies.p.models` must be a list, not 'm'."),
        (ONE + "models: {n: {source: 'builtin:bee-tiny'}}", "5:1 'models' is here twice."),
        (ONE + "aliases: {x: '${env.NO}'}", "5:15 ${env.NO} is not set in the environment."),
    ],
)  # fmt: skip
def test_one_thing_wrong_is_told_once(tmp_path: Path, text: str, expected: str) -> None:
    (only,) = told(tmp_path, text)
    assert only.startswith(expected)


def test_what_a_damaged_thing_lacks_is_not_told_too(tmp_path: Path) -> None:
    text = TWO + "workers:\n  w: {model: m, hvie: far}\n  v: {model: broken, hive: gone}\n  u: {model: m, hive: 3}\n"
    text = text.replace("models: {", "models: {broken: {sorce: 'hf:a/b'}, ").replace(
        "hives:\n", "hives:\n  gone: {ssh: 4}\n"
    )
    assert [t.split(" ", 1)[1][:40] for t in told(tmp_path, text)] == [
        "`hives.gone.ssh` must be a text or a map",
        "Unknown key 'sorce' in `models.broken`. ",
        "Unknown key 'hvie' in `workers.w`. Did y",
        "`workers.u.hive` must be a text, not 3. ",
    ]


def test_http_with_a_digest_or_on_this_machine_is_taken(tmp_path: Path) -> None:
    text = HEAD + f"models: {{a: {{source: 'http://h/m', sha256: {'ab' * 32}}}, b: {{source: 'http://[::1]:80/m'}}}}\n"
    assert set(read(tmp_path, text).spec.models) == {"a", "b"}


def test_engines_of_the_user_are_read_too_and_none_overrides(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    text = (ENGINES / "llama-cpp.yaml").read_text()
    (own / "mine.yaml").write_text(text.replace("name: llama-cpp", "name: mine"))
    loaded = read(tmp_path, one("engine: mine"), provider_dirs=[ENGINES, own])
    assert set(loaded.providers) == {"llama-cpp", "mine"}
    (own / "mine.yaml").write_text(text)
    (only,) = problems(tmp_path, ONE, provider_dirs=[ENGINES, own])
    assert only.summary == "The engine 'llama-cpp' is there twice."
    assert str(ENGINES) in only.detail


def test_a_bad_engine_file_is_told_beside_the_rest(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    text = (ENGINES / "llama-cpp.yaml").read_text()
    (own / "a.yaml").write_text(text.replace("name: llama-cpp", "name: a").replace("{model}", "{modle}"))
    (own / "b.yaml").write_text(text.replace("name: llama-cpp", "name: bb").replace("kind: engine", "kind: motor"))
    (own / "c.yaml").write_text("")
    found = problems(tmp_path, one("engine: bb") + "\nx: 1\n", provider_dirs=[ENGINES, own])
    assert [(p.where.file.rsplit("/", 1)[1] if p.where else "", p.summary) for p in found] == [
        ("a.yaml", "Nothing fills in {modle}."),
        ("b.yaml", "`kind`: 'motor' is not known."),
        ("c.yaml", "The file is empty."),
        ("rbee.yaml", "Unknown key 'x' in the file."),
    ]
    (tmp_path / "rbee.yaml").unlink()
    with pytest.raises(ProblemsError) as e:
        load(tmp_path / "rbee.yaml", {}, files=YamlFiles(), home=tmp_path, provider_dirs=[own])
    assert len(e.value.problems) == 4
