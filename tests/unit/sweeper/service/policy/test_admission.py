"""Admission: the command line's sentences, and nothing that points outside."""

import contextlib
import json
from types import SimpleNamespace

import pytest

from search_spaces import load, names
from sweeper.client.models import Role
from sweeper.config.load import load_sweep
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.service.config import Config
from sweeper.service.db.sweeps import UnknownSweepError
from sweeper.service.db.users import User
from sweeper.service.policy.admission import Rules, admit, check_changes
from sweeper.service.policy.bodies import parse_spec
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.limits import Limits
from sweeper.service.policy.space_files import SpaceFiles

ANNA, ROOT = User("anna", Role.SUBMITTER), User("root", Role.ADMIN)
SPACE = "from search_spaces import load, Space\nSPACE = load('digits_cnn').override({}, {'epochs': 3}, name='mine')\n"


@pytest.fixture
def rules(tmp_path):
    for name in ("root/mine-1", "root/hers-1", "data/images", "spaces", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "elsewhere/w.safetensors").touch()
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/mine-1/w.safetensors").touch()
    (tmp_path / "root/mine-1/way").symlink_to(tmp_path / "root/hers-1")
    (tmp_path / "spaces/mine.py").write_text(SPACE)
    (tmp_path / "elsewhere/evil.py").write_text("raise SystemExit('executed')")
    return Rules(
        str(tmp_path / "root"),
        Config(str(tmp_path / "root")).run_of,
        str(tmp_path / "data"),
        SpaceFiles(tmp_path / "spaces"),
        Limits(workers=64),
    )


def seen(sweep):
    if sweep != "mine-1":
        raise UnknownSweepError(f"there is no sweep {sweep!r}")
    return SimpleNamespace(id=sweep)


def admitted(values, rules, user=ANNA):
    got, lines = parse_spec(json.dumps(values).encode(), "application/json", rules.limits)
    return admit(got, lines, rules, user, seen)


def of_yaml(text, rules, user=ANNA):
    got, lines = parse_spec(text.encode(), "application/yaml", rules.limits)
    return admit(got, lines, rules, user, seen)


def spec(**more):
    return {"space": "digits_cnn", "trials": 4, **more}


def test_a_spec_becomes_what_the_catalog_stores(rules):
    found = admitted(spec(repeats=3), rules)
    assert (found.budget, found.trials, found.space) == (4, 12, "digits_cnn")
    assert found.values["data"] == rules.data
    assert SweepSpec.checked(found.values) == found.spec
    assert "out" not in found.values


def test_the_stored_spec_holds_the_request_and_the_default_noise(rules):
    found = admitted({"space": "cifar100_vit", "smoke": True}, rules)
    given = {"space": "cifar100_vit", "smoke": True, "data": rules.data}
    assert found.values == {**given, "noise": "adam_sde", "map": 0.6, "confirm": 0.2, "order": "fixed"}
    assert admitted(spec(), rules).values["noise"] == "paper_aug"  # the space varies the augmentation
    assert admitted(spec(noise="smith_le"), rules).values["noise"] == "smith_le"


def test_json_and_yaml_are_the_same_spec(rules):
    text = "space: digits_cnn\ntrials: 4\nparameters:\n  momentum: {min: 0.1, max: 0.5}\nfixed: {epochs: 2}\n"
    values = spec(parameters={"momentum": {"min": 0.1, "max": 0.5}}, fixed={"epochs": 2})
    assert of_yaml(text, rules) == admitted(values, rules)


@pytest.mark.parametrize(
    "text",
    [
        "space: digits_cn", "space: digits_cnn\ntrials: many", "space: digits_cnn\ntrails: 4", "space: [a]",
        "space: digits_cnn\nfixed:\n  epochs: -1", "space: digits_cnn\nparameters:\n  momentum: {min: 2, max: 3}",
        "space: digits_cnn\nfixed: {seed: 3}", "space: digits_cnn\nsampler: best", "trials: 3", "", "- a",
        "space: digits_cnn\nspace: digits_cnn", "space: digits_cnn\nenqueue: [{momentum: 7}]",
    ],
)  # fmt: skip
def test_a_wrong_spec_is_refused_in_the_command_lines_words(rules, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(SpecError) as theirs:
        load_sweep("sweep.yaml")
    with pytest.raises(SpecError) as ours:
        of_yaml(text, rules)
    assert str(ours.value) == str(theirs.value)


FORBIDDEN = {
    "out": ("/tmp/x", "the service sets"),
    "address": ("10.0.0.1:6379", "the service sets"),
    "cache": ("/tmp/x", "the service sets"),
    "download": (True, "admin's token"),
    "track": ("wandb", "track needs an admin's token, since the server sends the trials with its own account, got"),
    "enqueue": ("/etc/passwd", "must list configurations"),
    "data": ("/etc", "must lie in the server's data root"),
    "prior": (["/srv/other"], "must be a sweep's id"),
}


@pytest.mark.parametrize("key", FORBIDDEN)
def test_keys_that_are_the_services(rules, key):
    value, sentence = FORBIDDEN[key]
    with pytest.raises(RefusedError, match=sentence) as error:
        admitted(spec(**{key: value}), rules)
    assert error.value.status == 403


FETCHED = [
    {"fixed": {"weights": "pretrained"}},
    {"parameters": {"weights": {"values": ["", "pretrained"]}}},
    {"enqueue": [{"weights": "pretrained"}]},
    {"fixed": {"model": "timm:resnet18", "model_options": {"weights": "DEFAULT"}}},
    {"fixed": {"model": "timm:resnet18", "model_options.weights": "IMAGENET1K_V1"}},
]


@pytest.mark.parametrize("asked", FETCHED, ids=json.dumps)
def test_weights_that_the_server_fetches_need_the_right_that_download_needs(rules, asked):
    with pytest.raises(
        RefusedError, match=r"weights: .* needs an admin's token, since the server downloads the files"
    ) as error:
        admitted(spec(**asked), rules)
    assert error.value.status == 403
    with contextlib.suppress(SpecError):
        admitted(spec(**asked), rules, ROOT)
    assert admitted(spec(fixed={"weights": "pretrained", "model": "resnet18"}), rules, ROOT).spec.fixed["weights"]


PLAIN = [
    {"fixed": {"augmentation": "flip\x1b[31m"}},
    {"fixed": {"augmentation": "flip\u202e"}},
    {"parameters": {"optimizer": {"values": ["sgd", "a\x9b"]}}},
    {"enqueue": [{"augmentation": "a\u2028"}]},
    {"fixed": {"dataset_options": {"a\u200b": 1}}},
]


@pytest.mark.parametrize("asked", PLAIN, ids=ascii)
def test_control_and_format_characters_are_refused(rules, asked):
    with pytest.raises(SpecError, match=r"must not hold control or format characters, got '[ -~]*'$"):
        admitted(spec(**asked), rules)


def test_an_admin_may_download(rules):
    assert admitted(spec(download=True), rules, ROOT).spec.download


def test_an_admin_may_track(rules):
    assert admitted(spec(track="tensorboard"), rules, ROOT).spec.track == ("tensorboard",)
    assert admitted(spec(track=[]), rules).spec.track == ()


def test_data_may_be_a_part_of_the_data_root(rules, tmp_path):
    assert admitted(spec(data="images"), rules).spec.data == str(tmp_path / "data/images")
    assert of_yaml("space: digits_cnn\ndata: images", rules).spec.data == str(tmp_path / "data/images")
    for outside in ("../elsewhere", "link", "images/../../elsewhere", "~/x", "~nobody_/x", "s3://bucket/x"):
        with pytest.raises(RefusedError, match=r"server's data root|a path on the server"):
            admitted(spec(data=outside), rules)


def test_a_prior_is_a_sweep_that_one_may_see(rules, tmp_path):
    record = {"best": 0.1, "low": 0.05, "high": 0.2}
    found = admitted(spec(prior=["mine-1", record]), rules).spec.prior
    assert found[0] == str(tmp_path / "root/mine-1")
    assert found[1].best == 0.1
    with pytest.raises(UnknownSweepError):
        admitted(spec(prior=["hers-1"]), rules)


OUTSIDE = [
    {"weights": "/etc/passwd"},
    {"weights": "w.safetensors"},
    {"weights": "../../elsewhere/w.safetensors"},
    {"weights": "DATA/../elsewhere/w.safetensors"},
    {"weights": "DATA/link/w.safetensors"},
    {"weights": "ROOT/hers-1/w.safetensors"},
    {"weights": "ROOT/mine-1/way/w.safetensors"},
    {"weights": "ROOT/mine-1/../hers-1/w.safetensors"},
    {"weights": "ROOT/service.sqlite"},
    {"weights": "https://host/w.safetensors"},
    {"weights": "file%3A%2F%2F/etc/passwd"},
    {"dataset_options.path": "/etc"},
    {"dataset_options.path": "../elsewhere"},
    {"dataset_options.path": "link"},
    {"dataset_options": {"path": "/etc"}},
    {"dataset_options": {"deep": [{"path": "/etc"}]}},
    {"dataset_options": {"extra": "/etc"}},
    {"dataset_b_options.path": "/etc"},
    {"model_options.checkpoint_path": "evil.pt"},
    {"model_options.checkpoint_path": "/etc/evil.pt"},
    {"model_options": {"pretrained_cfg_overlay": {"url": "http://host/x"}}},
    {"model_options": {"pretrained_cfg": "x"}},
    {"model_options.any": "x.pth"},
    {"model": "hf-hub:user/model"},
    {"model": "hf:owner/name"},
    {"model": "hf:/etc"},
    {"model": "hf:DATA/link"},
    {"dataset_options": {"path": "a.txt", "tokenizer": "../elsewhere"}},
    {"model": "timm:local-dir:/etc"},
    {"model": "hf:/etc"},
    {"model": "hf:.."},
    {"model": "hf:folder"},
    {"model": "hf:user/model"},
    {"model": "hf:DATA/../elsewhere"},
    {"dataset": "../x"},
    {"dataset_options.tokenizer": "/etc"},
    {"dataset_options.val_path": "../elsewhere/val.txt"},
    {"datasets": ["../x"]},
    {"datasets": [{"name": "text", "options": {"path": "/etc"}}]},
    {"datasets": [{"name": "text", "options": {"path": "../elsewhere"}}]},
    {"source": "import os"},
    {"source": 3},
    {"source": ["import os"]},
    {"source.x": "import os"},
]


@pytest.mark.parametrize("fixed", OUTSIDE, ids=json.dumps)
def test_a_value_that_leads_outside_is_refused(rules, fixed):
    text = json.dumps(fixed).replace("DATA", str(rules.data)).replace("ROOT", rules.root)
    with pytest.raises(RefusedError) as error:
        admitted(spec(fixed=json.loads(text)), rules)
    assert error.value.status == 403


@pytest.mark.parametrize("fixed", OUTSIDE, ids=json.dumps)
def test_a_choice_of_a_knob_or_a_point_that_leads_outside_is_refused(rules, fixed):
    text = json.dumps(fixed).replace("DATA", str(rules.data)).replace("ROOT", rules.root)
    values = json.loads(text)
    parameters = {name: {"values": [value]} for name, value in values.items()}
    for where in ({"parameters": parameters}, {"enqueue": [values]}):
        with pytest.raises(RefusedError):
            admitted(spec(**where), rules)


def test_values_inside_are_let_through(rules):
    weights = f"{rules.root}/mine-1/w.safetensors"
    fixed = {"weights": weights, "dataset_options": {}, "optimizer_options": {"nesterov": True}}
    assert admitted(spec(fixed=fixed), rules).spec.fixed["weights"] == weights
    folder = f"hf:{rules.data}/images"
    assert admitted(spec(fixed={"model": folder}), rules).spec.fixed["model"] == folder
    images = {"space": "imagefolder_timm", "trials": 2, "fixed": {"dataset_options.path": "images"}}
    assert admitted(images, rules).spec.fixed == {"dataset_options.path": "images"}


def test_a_space_is_a_name(rules, tmp_path):
    assert admitted({"space": "mine", "trials": 2}, rules).spec.space == str(tmp_path / "spaces/mine.py")
    assert admitted({"space": "mine", "trials": 2}, rules).space == "mine"
    for path in (str(tmp_path / "elsewhere/evil.py"), "evil.py", "../elsewhere/evil", "spaces/mine"):
        with pytest.raises(RefusedError, match="not Python code"):
            admitted({"space": path, "trials": 2}, rules)
        with pytest.raises(RefusedError, match="not Python code"):
            of_yaml(f"space: {path}", rules)
    with pytest.raises(SpecError, match="unknown space 'other'"):
        admitted({"space": "other"}, rules)
    with pytest.raises(SpecError, match="unknown space 'mine'"):
        admitted({"space": "mine"}, Rules(rules.root, rules.run_of))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("workers", 65, "workers must be at most 64"),
        ("threads", 65, "threads must be at most 64"),
        ("loader_workers", 33, "loader_workers must be at most 32"),
        ("plane", 102, "plane must be at most 101"),
        ("measure", 10_001, "measure must be at most 10000"),
        ("device", "cuda:0; rm", "device must be"),
        ("repeats", 10_000, "at most 1000000 trials"),
        ("max_gpu_hours", True, "max_gpu_hours: must be a number, got True"),
        ("resources", {"gpus_per_pair": True}, "must be a number, got True"),
        ("trials", 1e400, "not|finite"),
        ("max_failed", 10**30, "below"),
        ("name\0", 1, "NUL"),
        ("device", "\ud800", "valid Unicode"),
        ("prior", ["a"] * 65, "at most 64"),
    ],
)
def test_what_is_too_much(rules, key, value, sentence):
    with pytest.raises(SpecError, match=sentence):
        admitted({"space": "digits_cnn", "trials": 1000, key: value}, rules)


@pytest.mark.parametrize(
    ("fixed", "sentence"),
    [
        ({"members": 100_000_000}, "members must be at most 1000, got 100000000"),
        ({"members": 65}, "members must be at most 64 on this server, got 65"),
        ({"merges": ["linear"] * 65}, "merges must name at most 64 merges, got 65"),
        ({"epochs": 10_001}, "epochs must be at most 10000 on this server, got 10001"),
        ({"steps": 10**12}, "steps must be at most 1000000000, got 1000000000000"),
        ({"base.steps": 10_000_001}, "base.steps must be at most 10000000 on this server"),
        ({"model": "resnet18_32", "model_options": {"width": 4000}}, "model_options.width must be at most 1024"),
        (
            {"model_options": {"block": {"depths": [2, 2_000_000]}}},
            "model_options.block.depths must be at most 1000000",
        ),
        (
            {"batch_size": 8193, "noise_schedule": {"kind": "linear", "start": 1, "end": 2, "by": "batch_size"}},
            "8 x batch_size, the largest batch with noise_schedule.by batch_size, must be at most 65536 on this "
            "server, got 65544",
        ),
        ({"dataset_options.size": 2000}, "dataset_options.size must be at most 1024 on this server, got 2000"),
    ],
)
def test_a_trial_is_bounded(rules, fixed, sentence):
    with pytest.raises(SpecError, match=sentence):
        admitted(spec(fixed=fixed), rules)
    (name, value), *rest = fixed.items()
    if name in ("members", "epochs") and not rest:  # a knob reaches its largest value
        with pytest.raises(SpecError, match=sentence):
            admitted(spec(parameters={name: {"values": [2, value]}}), rules)


def test_the_built_in_spaces_are_within_the_bounds(rules):
    for name in names():  # the smoke variant stands in for a space that needs files of the user
        assert admitted({"space": name, "trials": 2, "smoke": bool(load(name).needs)}, rules).budget == 2


def test_choices_of_a_knob_are_bounded(rules):
    with pytest.raises(SpecError, match="at most 1000 values, got 1001"):
        admitted(spec(parameters={"batch_size": {"values": list(range(1001))}}), rules)


def test_changes_of_resume(rules):
    entry = SimpleNamespace(
        spec={"space": "digits_cnn", "trials": 4, "repeats": 2, "resources": {"cpus_per_rank": 2.0}},
        summary={"progress": {"done": 3}},
        gpu_hours=0.5,
    )
    asked = check_changes(entry, {"trials": 10, "max_gpu_hours": 2, "resources": {"memory_per_rank": "1GB"}}, rules)
    assert (asked.values["trials"], asked.budget, asked.demand) == (10, 10, (14, 1.5))
    assert asked.values["resources"] == {"cpus_per_rank": 2.0, "memory_per_rank": "1GB"}
    with pytest.raises(RefusedError, match="resume cannot change"):
        check_changes(entry, {"data": "/etc"}, rules)
    large = SimpleNamespace(**{**vars(entry), "spec": {**entry.spec, "fixed": {"members": 65}}})
    with pytest.raises(SpecError, match="members must be at most 64"):
        check_changes(large, {"trials": 10}, rules)
    with pytest.raises(SpecError, match="unknown key 'trails'"):
        check_changes(entry, {"trails": 3}, rules)
    with pytest.raises(SpecError, match="trials: must be a whole number"):
        check_changes(entry, {"trials": "x"}, rules)
