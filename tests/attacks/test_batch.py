"""Items join and leave a batch, and none notices its neighbours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from analytic import drive, evaluate, logits_of
from torch import Tensor

from adjointdpm.attacks import Attack, AttackBatch, Ended, Evaluation, Threat, build_rule, margin

RULES = ["apgd", "sign", "normalized", "adam"]
THREATS = [Threat("linf", 0.4), Threat("l2", 0.8), Threat("linf", 0.4, shell=True)]


def items(count: int, targeted: bool = False) -> list[tuple[Any, ...]]:
    """Items as `AttackBatch.add` takes them; some of them are wrong at the start."""
    starts = torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(5)).double()
    labels = logits_of(starts).argmax(1).tolist()
    labels[1] = (labels[1] + 1) % 5
    targets = [(label + 2) % 5 if targeted else None for label in labels]
    return [(i, starts[i], labels[i], targets[i], 100 + i) for i in range(count)]


def attack_of(rule: Any, threat: Threat, **settings: Any) -> Attack:
    return Attack(threat, build_rule(rule, threat, 12), max_steps=12, **settings)


def assert_same(a: Ended, b: Ended) -> None:
    assert (a.status, a.evaluations) == (b.status, b.evaluations)
    for x, y in ((a.start, b.start), (a.last, b.last), (a.best, b.best)):
        assert x.evaluation == y.evaluation
        assert torch.equal(x.point, y.point)
        assert torch.equal(x.logits, y.logits)


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_an_item_does_not_notice_its_neighbours(rule: str, threat: Threat) -> None:
    """Alone, with all others at once, and in places that become free: the same to the bit."""
    attack = attack_of(rule, threat, num_restarts=1)
    queue = items(9)
    together = drive(AttackBatch(attack), queue, capacity=9)
    in_turn = drive(AttackBatch(attack), queue, capacity=4)
    assert set(together) == set(in_turn) == set(range(9))
    assert {one.status for one in together.values()} >= {"fooled", "wrong at the start"}
    for item in queue:
        alone = drive(AttackBatch(attack), [item], capacity=1)[item[0]]
        assert_same(alone, together[item[0]])
        assert_same(alone, in_turn[item[0]])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy", "dlr"])
def test_what_is_called_fooled_is(loss: Any, targeted: bool) -> None:
    attack = Attack(Threat("linf", 0.5), loss=loss, targeted=targeted, max_steps=20)
    queue = items(12, targeted)
    ended = drive(AttackBatch(attack), queue, capacity=5)
    goals = {item[0]: item[2] if item[3] is None else item[3] for item in queue}
    for i, one in ended.items():
        answer = int(logits_of(one.best.point[None]).argmax())
        assert torch.equal(logits_of(one.best.point[None])[0], one.best.logits)
        assert attack.threat.distance(one.best.point[None], one.start.point[None]) <= 0.5 + 1e-12
        if one.status == "wrong at the start":
            assert one.evaluations == 1
        else:
            assert (one.status == "fooled") == ((answer == goals[i]) == targeted)
    assert sum(one.status == "fooled" for one in ended.values()) >= 3


def test_running_on_finds_the_strongest() -> None:
    stopped = attack_of("apgd", THREATS[0])
    run_on = replace(stopped, stop_at_success=False)
    queue = items(8)
    first = drive(AttackBatch(stopped), queue, capacity=8)
    strongest = drive(AttackBatch(run_on), queue, capacity=8)
    labels = {item[0]: torch.tensor([item[2]]) for item in queue}
    for i, one in first.items():
        assert strongest[i].status == one.status
        assert strongest[i].evaluations == (1 if one.status == "wrong at the start" else 13)
        if one.status == "fooled":
            assert one.best.evaluation == one.last.evaluation == one.evaluations - 1
            stronger = margin(strongest[i].best.logits[None], labels[i])
            assert stronger >= margin(one.best.logits[None], labels[i])


def test_restarts_begin_elsewhere_and_keep_the_best() -> None:
    threat = Threat("linf", 0.02)
    attack = Attack(threat, max_steps=3, num_restarts=2)
    seen: list[Tensor] = []

    def look(points: Tensor, keys: Any) -> Evaluation:
        seen.append(points.detach().clone())
        return evaluate(points, keys)

    [item] = [i for i in items(9) if i[0] == 2]
    one = drive(AttackBatch(attack), [item], 1, look)[2]
    assert (one.status, one.evaluations) == ("held", 3 * 4)
    path = torch.cat(seen)
    assert torch.equal(path[0], item[1])
    assert not torch.equal(path[4], path[0])
    assert not torch.equal(path[8], path[4])
    margins = margin(logits_of(path), torch.full((12,), item[2]))
    assert margin(one.best.logits[None], torch.tensor([item[2]])) == margins.max()


def test_pictures_beyond_the_limit_count_for_nothing() -> None:
    """The distance is that of points here: the limit is a ball, narrower than the box."""
    queue = items(20)
    starts = {item[0]: item[1] for item in queue}

    def look(points: Tensor, keys: Any) -> Evaluation:
        begun = torch.stack([starts[key] for key in keys])
        distance = (points - begun).square().flatten(1).sum(1)
        return Evaluation(logits_of(points), points.detach(), distance)

    threat = Threat("linf", 1.0)
    for rule in RULES:
        attack = Attack(threat, build_rule(rule, threat, 20, 0.5), max_steps=20)
        free = drive(AttackBatch(attack), queue, 20, look)
        limited = drive(AttackBatch(replace(attack, picture_limit=0.3)), queue, 20, look)
        reach = {i: float((o.best.point - starts[i]).square().sum()) for i, o in limited.items()}
        assert max(reach.values()) <= 0.3
        assert sum(o.status == "fooled" for o in limited.values()) >= 5
        moved = [float((o.best.point - starts[i]).square().sum()) for i, o in free.items()]
        assert max(moved) > 0.3
    with pytest.raises(ValueError, match="nothing measures it"):
        drive(AttackBatch(replace(attack, picture_limit=0.3)), queue, 1)


def test_one_bad_item_does_not_end_the_others() -> None:
    def look(points: Tensor, keys: Any) -> Evaluation:
        bad = torch.tensor([key == 3 for key in keys])[:, None]
        return Evaluation(logits_of(points) * torch.where(bad, torch.nan, 1.0), points.detach())

    attack = attack_of("apgd", THREATS[0])
    ended = drive(AttackBatch(attack), items(6), 6, look)
    whole = drive(AttackBatch(attack), items(6), 6)
    assert ended[3].status == "not finite"
    for i in (0, 1, 2, 4, 5):
        assert_same(ended[i], whole[i])


def test_gradients_of_zero_are_counted() -> None:
    def look(points: Tensor, keys: Any) -> Evaluation:
        return Evaluation(logits_of(points).detach() + 0 * points.sum(), points.detach())

    [item] = [i for i in items(3) if i[0] == 2]
    one = drive(AttackBatch(Attack(max_steps=4)), [item], 1, look)[2]
    assert (one.status, one.zero_gradients) == ("held", 5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_steps": 0}, "max_steps"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"num_restarts": 1, "threat": Threat("l2", None)}, "radius"),
        ({"threat": Threat("l2", None)}, "set step_size"),
        ({"picture_limit": -1.0}, "picture_limit"),
    ],
)
def test_settings_that_make_no_attack(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Attack(**settings)


def test_targets_are_for_targeted_attacks() -> None:
    start = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="needs no target"):
        AttackBatch(Attack()).add("a", start, 0, 1, 0)
    with pytest.raises(ValueError, match="needs a target"):
        AttackBatch(Attack(targeted=True)).add("a", start, 0, None, 0)
    with pytest.raises(ValueError, match="its own class"):
        AttackBatch(Attack(targeted=True)).add("a", start, 1, 1, 0)
