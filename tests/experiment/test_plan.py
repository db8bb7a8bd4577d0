"""What a plan asks for, and the one line that answers each mistake in it."""

import pytest
import yaml
from tiny_plans import write_data, write_plan

from sonodetr.bundled import MODELS
from sonodetr.experiment.plan import Unit, load_plan
from sonodetr.files import InputError

PLAIN = {"tune": {"train.learning_rate": [1e-3, 3e-3]}}
TAUGHT = {"teacher": "wide", "takes": ["plain"], "tune": {"distill.encoder.weight": [1, 10]}}


@pytest.fixture
def plan(tmp_path):
    """Makes the path of a plan; keywords change it."""
    data = write_data(tmp_path / "data")
    return lambda **changes: write_plan(tmp_path, data, **changes)


def test_every_training_is_asked_for_once_tuning_before_repetition(plan):
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    path = plan(
        queries=queries,
        methods={"plain": PLAIN, "attention": TAUGHT, "long": {"takes": ["plain"]}},
        seeds=[3, 5],
    )
    units = list(load_plan(path).units())
    assert units[:8] == [
        Unit(None, "wide"),
        Unit("anchor", "plain", 3, 1e-3),
        Unit("anchor", "plain", 3, 3e-3),
        Unit("anchor", "attention", 3, 1),
        Unit("anchor", "attention", 3, 10),
        Unit("anchor", "long", 3),
        Unit("anchor", "plain", 5),
        Unit("anchor", "attention", 5),
    ]
    # 1 teacher, and in each of 2 settings 2 + 2 that tune, 3 methods of 2 seeds, less 2 that tuned
    assert len(units) == len(set(units)) == 1 + 2 * (4 + 3 * 2 - 2)
    assert load_plan(path).configurations_tried == 8


def test_methods_are_limited_to_their_queries(plan):
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    attention = TAUGHT | {"queries": ["anchor"]}
    found = load_plan(plan(queries=queries, methods={"plain": PLAIN, "attention": attention}))
    assert found.queries_of("attention") == ("anchor",)
    assert found.configurations_tried == 2 * 2 + 2
    assert Unit("learned", "attention", 0, 1) not in list(found.units())


def test_the_config_of_a_run_has_all_changes(plan):
    changes = {"train.epochs": 7, "distill.heads": "mean"}
    path = plan(
        changes={"train.warmup_steps": 5, "train.epochs": 3},
        queries={"anchor": {}, "learned": {"model.queries": "learned", "train.epochs": 5}},
        methods={"plain": PLAIN, "attention": TAUGHT | {"changes": changes}},
    )
    numbers = {"train.learning_rate": 3e-3, "distill.encoder.weight": 10}
    config = load_plan(path).student_config("learned", "attention", 11, numbers, "runs/wide")
    assert (config.train.epochs, config.train.warmup_steps) == (7, 5)
    assert (config.train.learning_rate, config.distill.encoder.weight) == (3e-3, 10)
    assert (config.model.queries, config.seed) == ("learned", 11)
    assert (config.distill.teacher, config.distill.heads) == ("runs/wide", "mean")


def test_words_change_a_plan(plan):
    assert load_plan(plan(), ["seeds=[7]", "name=short"]).seeds == (7,)


def test_the_plans_that_come_along():
    paper, ablation, labels = (
        load_plan(f"configs/experiments/{name}.yaml") for name in ("paper", "ablation", "labels")
    )
    assert len(paper.seeds) == 5
    assert paper.configurations_tried == (5 + 4 + 4 + 5) + (1 + 3 + 3 + 3)  # anchor, learned
    for plan in (labels, ablation):
        for name in plan.methods:
            config = plan.student_config("", name, 0, {})
            batch = config.train.batch_size
            if plan.methods[name].teacher and config.data.labelled < 1:
                batch += config.distill.unlabelled_batch
            assert batch == 8, name
            steps = config.train.epochs * 2400 * config.data.labelled / config.train.batch_size
            pictures = 9_600 if plan is ablation else 19_200
            assert steps * batch == pictures * (2 if "twice" in name else 1), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": [1]}, "unknown key 'seed'; did you mean 'seeds'"),
        ({"methods": {"plain": {"tunes": {}}}}, "unknown key 'methods.plain.tunes'; did you mean"),
        ({"teachers": {"wide": {"path": "x"}}}, "unknown key 'teachers.wide.path'; Allowed: conf"),
        ({"baseline": "plane"}, "baseline 'plane' is not among methods; did you mean 'plain'?"),
        ({"strongest": ["x"]}, "strongest 'x' is not among methods; Allowed: plain, attention"),
        ({"seeds": [1, 1]}, "seeds [1, 1]: give different ones"),
        ({"seeds": [-1]}, "seeds [-1]: give different ones, from 0 below 2^32"),
        ({"seeds": []}, "seeds: [] is not allowed"),
        ({"name": "a/b"}, "name: 'a/b' is not allowed"),
        ({"name": ".."}, "name: '..' is not allowed"),
        ({"name": "-x"}, "name: '-x' is not allowed"),
        ({"test": {}}, "queries and test need one entry or more"),
        ({"teachers": {"wide": {}}}, "teachers.wide: give either config (to train it) or run"),
        (
            {"teachers": {"wide": {"run": "none/such"}}},
            "teacher 'wide': none/such: no such run folder, and no bundled model",
        ),
        (
            {"teachers": {"wide": {"run": ".", "changes": {"seed": 3}}}},
            "teachers.wide: changes are for a config",
        ),
        (
            {"changes": {"train": {"epochs": 1}}},
            "set the keys of a section one by one, as in train.",
        ),
        (
            {"changes": {"seed": 3}, "queries": {"anchor": {"name": "mine"}}},
            "changes of name, seed have no effect",
        ),
    ],
)
def test_mistakes_are_answered_in_one_line(plan, changes, said):
    refuses(plan(**changes), said)


@pytest.mark.parametrize(
    ("name", "method", "said"),
    [
        ("a", {"teacher": "wise"}, "'a': teacher 'wise' is not among teachers; did you mean 'wid"),
        ("a", {"queries": ["anchor"]}, "method 'a': queries 'anchor' is not among queries"),
        (
            "a",
            {"takes": ["b"]},
            "method 'a': takes 'b' is not among methods; Allowed: plain, attention, long",
        ),
        ("a", {"against": ["b"]}, "method 'a': against 'b' is not among methods"),
        ("a", {"takes": ["long"]}, "method 'a': takes 'long', which tunes nothing"),
        ("plain", PLAIN | {"takes": ["attention"]}, "'plain' takes 'attention' takes 'plain':"),
        ("a", PLAIN | {"takes": ["plain"]}, "method 'a': gets two numbers for train.learning_rate"),
        ("a", {"tune": {"seed": [1], "name": ["x"]}}, "methods.a: tune has 2 keys (seed, name)"),
        (
            "a",
            {"tune": {"seed": 3}},
            "methods.a.tune.seed: 3 is not allowed; Input should be",
        ),
        ("a", {"tune": {"seed": []}}, "methods.a: tune seed []: give different values"),
        ("a", {"tune": {"seed": [1, 1]}}, "methods.a: tune seed [1, 1]: give different values"),
        (
            "a",
            {"tune": {"distill.memory.weight": [1]}},
            "method 'a': sets distill.memory.weight but has no teacher",
        ),
        (
            "a",
            {"changes": {"distill.memory.weight": 1}},
            "method 'a': sets distill.memory.weight but has no teacher",
        ),
        (
            "a",
            {"teacher": "wide"},
            "method 'a': has a teacher but no loss of it a weight; set or tune",
        ),
        ("a", {"changes": {"train.epoch": 2}}, "unknown key 'train.epoch'; did you mean 'epochs'"),
        ("a", {"tune": {"train.epochs": [1, "two"]}}, "train.epochs: 'two' is not allowed"),
    ],
)
def test_mistakes_in_a_method(plan, name, method, said):
    refuses(plan(methods={"plain": PLAIN, "attention": TAUGHT, "long": {}} | {name: method}), said)


def test_queries_may_need_other_values(plan):
    rates = {"learned": [1e-4, 2e-4, 4e-4], "anchor": [1e-3]}
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    methods = {"plain": {"tune": {"train.learning_rate": rates}}}
    found = load_plan(plan(queries=queries, methods=methods, teachers={}, seeds=[0]))
    assert [(unit.queries, unit.value) for unit in found.units()] == [
        ("anchor", 1e-3),
        ("learned", 1e-4),
        ("learned", 2e-4),
        ("learned", 4e-4),
    ]
    assert found.configurations_tried == 4
    path = plan(queries=queries, methods=methods, teachers={})
    assert load_plan(path, ["queries={anchor: {}}"]).configurations_tried == 1
    assert found.data() == load_plan(plan(queries=queries)).data()


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"anchor": [1e-3]}, "train.learning_rate has no values for queries learned; add them, or"),
        ({"anchors": [1], "learned": [1]}, "has no values for queries anchor; add them, or one"),
        ({"anchor": [], "learned": [1]}, "tune train.learning_rate []: give different values"),
    ],
)
def test_values_are_given_for_all_queries_or_none(plan, rates, said):
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    methods = {"plain": {"tune": {"train.learning_rate": rates}}}
    refuses(plan(queries=queries, methods=methods, teachers={}), said)


def test_a_method_stands_beside_one_that_is_tried_wherever_it_is(plan):
    queries = {"anchor": {}, "learned": {"model.queries": "learned"}}
    limited = TAUGHT | {"queries": ["anchor"]}
    methods = {"plain": PLAIN, "attention": limited, "b": {"takes": ["attention"]}}
    refuses(
        plan(queries=queries, methods=methods),
        "'attention', which is not tried with queries learned",
    )
    methods = {"plain": PLAIN | {"queries": ["learned"]}}
    refuses(plan(queries=queries, methods=methods), "baseline 'plain' is not tried with queries an")


def test_a_file_that_is_no_plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("name: [")
    refuses(path, "not valid YAML at line 1")
    path.write_text(yaml.safe_dump({"name": "x"}))
    refuses(path, "student")


def refuses(path, said):
    with pytest.raises(InputError) as error:
        load_plan(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_bundled_models_may_teach_and_be_started_from(plan):
    path = plan(
        changes={"model.weights": "tiny"},
        teachers={"wide": {"run": "nano"}},
        methods={"plain": PLAIN, "attention": TAUGHT},
    )
    found = load_plan(path)
    assert found.teacher_folder("wide") == MODELS / "nano"
    config = found.student_config("", "plain", 0, {})
    assert config.model.weights == str(MODELS / "tiny")
    with pytest.raises(InputError, match="no bundled model; did you mean 'tiny'"):
        load_plan(plan(changes={"model.weights": "tinny"}))
    with pytest.raises(InputError, match="teacher 'wide': tinny: no such run folder, and no bun"):
        load_plan(plan(teachers={"wide": {"run": "tinny"}}))
