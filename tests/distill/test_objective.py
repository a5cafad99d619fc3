import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision

from kit.config.override import override
from kit.config.recipes import recipe
from kit.config.terms import AFD, AT, CE, CRD, DIST, DKD, KD, L2, MLKD, RKD, SP, FixedKD, Hint, Review, SimKD
from kit.device import choose_device
from kit.distill import features, losses
from kit.distill.align import Taps, look, same_size, take_classifier
from kit.distill.objective import Objective
from kit.distill.terms import OF_LOGITS, OF_MAPS
from kit.errors import KitError
from kit.models.look import classifier
from kit.models.students import FrozenStem, build_student
from kit.stages.teacher import panel_of


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=11).eval().requires_grad_(False)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 64, 64, generator=generator), torch.randint(11, (6,), generator=generator)


def test_the_boss_objective_is_the_published_formula(teacher):
    """10p²·[(1 − p²)·T²·KL + p²·CE] + Σ w·SmoothL1 over layer1 to layer3, at a p in the middle."""
    student, (x, y), p = build_student("boss", (), 11), batch(), 0.6
    objective = Objective(student, teacher, recipe("boss").distill, 64)
    with torch.no_grad():
        total, values = objective(x, y, p)
        ours = look(student.train(), ["blocks.0", "blocks.1", "blocks.2"], x)
        theirs = look(teacher, ["layer1", "layer2", "layer3"], x)
    kd, ce = losses.kd(ours["logits"], theirs["logits"], 20), losses.ce(ours["logits"], y)
    hints = sum(w * F.smooth_l1_loss(ours[f"blocks.{i}"], theirs[f"layer{i + 1}"]) for i, w in enumerate((3, 2, 1)))
    assert total.item() == pytest.approx((10 * p**2 * ((1 - p**2) * kd + p**2 * ce) + hints).item(), rel=1e-4)
    assert values.keys() == {"kd", "ce", "hint layer1", "hint layer2", "hint layer3"}


def test_gradients_reach_student_and_adapters_and_nothing_else(teacher):
    student = build_student("record", (), 11)
    objective = Objective(student, teacher, (KD(), Hint(student="blocks.1", teacher="layer2")), 64)
    total, _ = objective(*batch(), 0.5)
    total.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert len(list(objective.adapters.parameters())) > 0
    assert all(p.grad is not None for p in objective.adapters.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_taps_that_stay_say_what_a_look_says_and_keep_nothing_of_other_passes(teacher):
    names, (x, _) = ["layer1", "layer2.0"], batch()
    taps = Taps(teacher, names)
    with torch.no_grad():
        seen, same = taps(x), look(teacher, names, x)
        assert seen.keys() == same.keys()
        assert all(torch.equal(seen[name], same[name]) for name in same)
        copy.deepcopy(teacher)(x)
        teacher(x)
    assert not taps.seen
    for handle in taps.handles:
        handle.remove()
    assert not any(module._forward_hooks for module in teacher.modules())


@pytest.mark.parametrize("fuse", [None, lambda function: function])
def test_a_map_inside_a_block_is_what_its_module_gave_though_a_later_one_writes_over_it(teacher, fuse):
    """torchvision's blocks rectify and add in place, and so do timm's. A convolution without its norm is only there unfolded."""
    config = override(recipe("record"), ["student.name=timm/resnet10t", "limit=99999999params"])
    student, (x, y) = build_student(config.student.name, (), 11), batch()
    teacher, kept = copy.deepcopy(teacher), {}
    for network, names in ((teacher, ("layer3.0.conv1", "layer2.1.bn2")), (student, ("body.layer1.0.bn1",))):
        for name in names:
            keep = lambda module, inputs, output, name=name: kept.update({name: output.detach().clone()})  # noqa: E731
            network.get_submodule(name).register_forward_hook(keep)
    hints = tuple(Hint(student="body.layer1.0.bn1", teacher=name) for name in ("layer3.0.conv1", "layer2.1.bn2"))
    panel = panel_of([teacher], config.model_copy(update={"distill": hints}), choose_device())
    objective = Objective(student, panel, hints, 64, fuse=fuse)
    objective(x, y, 0.5)
    ours, theirs = objective.look_ours(x), objective.look_theirs(x)
    seen = {name: value for name, value in (ours | theirs).items() if name != "logits"}
    assert seen.keys() == kept.keys()
    assert all(torch.equal(seen[name], kept[name]) for name in seen)


def test_the_teacher_is_not_moved_by_panel_of(teacher):
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    Objective(build_student("record", (), 11), teacher, (KD(),), 64)(*batch(), 0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_a_frozen_stem_stays_in_evaluation_mode_under_the_objective(teacher):
    student = build_student("boss", (), 11)
    objective = Objective(student, teacher, recipe("boss").distill, 64)
    student.train()
    objective(*batch(), 0.5)
    assert not any(m.training for m in student.modules() if isinstance(m, FrozenStem) for m in m.modules())


def test_the_hints_gradient_is_channels_last():
    """Otherwise batch norm's backward takes twelve times as long on a CPU."""
    feature = torch.randn(2, 64, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(features.channels_last(F.smooth_l1_loss, feature, torch.zeros_like(feature)), feature)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_stage_that_does_not_exist_is_refused_with_the_nearest(teacher):
    with pytest.raises(KitError, match=r"'layer9'.*layer"):
        Objective(build_student("record", (), 11), teacher, (Hint(student="blocks.1", teacher="layer9"),), 64)


def test_the_gamma_penalty_is_the_sum_of_bn_scales(teacher):
    student = build_student("record", (), 11)
    objective = Objective(student, teacher, (CE(),), 64, gamma_penalty=0.1)
    total, values = objective(*batch(), 0.0)
    assert total.item() == pytest.approx((values["ce"] + 0.1 * values["gamma"]).item())
    wanted = sum(m.weight.abs().sum() for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert values["gamma"].item() == pytest.approx(wanted.item())


def test_the_gamma_penalty_leaves_the_frozen_stem_s_scales_out(teacher):
    student = build_student("boss", (), 11)
    next(m for m in student.modules() if isinstance(m, FrozenStem)).copy_from(teacher)
    _, values = Objective(student, teacher, (CE(),), 64, gamma_penalty=0.1)(*batch(), 0.5)
    trained = [m.weight for m in student.blocks.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert values["gamma"].item() == pytest.approx(sum(len(weight) for weight in trained))  # new ones are all one


def test_a_student_without_batch_norms_has_no_gamma_penalty(teacher):
    """As timm's ConvNeXt, which is pruned by magnitude."""
    student = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 11))
    total, values = Objective(student, teacher, (CE(),), 64, gamma_penalty=0.1)(*batch(), 0.5)
    assert (total.item(), values["gamma"].item()) == (values["ce"].item(), 0)


def test_maps_meet_at_the_smaller_size():
    for sizes in ((12, 6), (6, 12), (12, 7)):
        maps = [torch.ones(1, 2, size, size) for size in sizes]
        assert [m.shape[-1] for m in same_size(*maps)] == [min(sizes)] * 2


STAGES = {"student": ("blocks.1", "blocks.3", "blocks.5"), "teacher": ("layer1", "layer2", "layer3")}
LAST = {"student": "blocks.5", "teacher": "layer4"}
EVERY = (
    *(CE(smoothing=0.1), KD(temperature=4, standardise=True), DKD(), DIST(), MLKD(), Hint(**LAST), AT(**LAST), SP(**LAST), RKD(**LAST)),
    *(CRD(**LAST), Review(**STAGES), AFD(**STAGES), L2(), FixedKD(temperature=4)),
)


def test_every_term_trains_the_student_and_all_its_own_parts(teacher):
    assert {type(term) for term in EVERY} | {SimKD} == OF_LOGITS.keys() | OF_MAPS.keys()
    for term in EVERY:
        student = build_student("record", (), 11)
        objective = Objective(student.train(), teacher, (term,), 64)
        total, values = objective(*batch(), 0.5)
        total.backward()
        assert [torch.isfinite(value).item() for value in values.values()] == [True]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.adapters.parameters())
        assert sum(p.grad.abs().sum() for p in student.blocks.parameters() if p.grad is not None) > 0


def test_what_a_term_of_logits_is_set_to_is_what_its_loss_is_given():
    ours, theirs, labels = torch.randn(6, 11), torch.randn(6, 11), batch()[1]
    z_scores = losses.standardise(ours), losses.standardise(theirs)
    cases = {
        CE(smoothing=0.1): losses.ce(ours, labels, 0.1),
        KD(temperature=3, standardise=True): losses.kd(*z_scores, 3),
        FixedKD(temperature=3): losses.kd(ours, theirs, 3),
        DKD(temperature=3, alpha=2, beta=5, standardise=True): losses.dkd(*z_scores, labels, temperature=3, alpha=2, beta=5),
        DIST(temperature=3, beta=2, gamma=5): losses.dist(ours, theirs, temperature=3, beta=2, gamma=5),
        MLKD(temperatures=(2, 3), standardise=True): losses.mlkd(*z_scores, (2, 3)),
    }
    for term, wanted in cases.items():
        assert OF_LOGITS[type(term)](term, ours, theirs, labels) == wanted


def test_what_a_term_of_maps_is_set_to_is_what_its_loss_is_given():
    ours, theirs, shape = torch.randn(6, 8, 5, 5), torch.randn(6, 8, 5, 5), [(8, 5, 5)]
    a, b = ours.mean((2, 3)), theirs.mean((2, 3))
    cases = {
        RKD(**LAST, distance=2, angle=5): lambda term: 2 * features.rkd_distance(a, b) + 5 * features.rkd_angle(a, b),
        Hint(**LAST, distance="mse"): lambda term: F.mse_loss(ours, theirs),
        CRD(**LAST, temperature=0.3): lambda term: features.crd(term.student(a), term.teacher(b), 0.3),
    }
    for settings, wanted in cases.items():
        term = OF_MAPS[type(settings)](settings, shape, shape)
        assert term([ours], [theirs]).item() == pytest.approx(wanted(term).item())


def test_losses_are_of_float32_whatever_the_networks_compute_in(teacher):
    student, (x, y) = build_student("record", (), 11), batch()
    objective = Objective(student, teacher, (KD(), SP(**LAST)), 64)
    with torch.autocast("cpu", torch.bfloat16):
        _, values = objective(x, y, 0.5)
        ours, theirs = objective.look_ours(x), objective.look_theirs(x)
    assert ours["logits"].dtype == torch.bfloat16
    assert values["kd"].item() == pytest.approx(losses.kd(ours["logits"].float(), theirs["logits"].float(), 1).item(), rel=1e-5)
    assert values["sp"].item() == pytest.approx(features.sp(ours["blocks.5"].float(), theirs["layer4"].float()).item(), rel=1e-5)


def test_terms_add_up_and_those_of_one_kind_keep_names_of_their_own(teacher):
    student, terms = build_student("record", (), 11), (KD(temperature=2), KD(weight=3, temperature=8, ramp="1-p"), CE(weight=0.5))
    objective = Objective(student.eval(), teacher, terms, 64)
    total, values = objective(*batch(), 0.25)
    assert list(values) == ["kd", "kd #2", "ce"]
    assert total.item() == pytest.approx((values["kd"] + 3 * 0.75 * values["kd #2"] + 0.5 * values["ce"]).item())


def test_a_teacher_is_not_asked_where_no_term_wants_it(teacher):
    def refuse(*_):
        raise AssertionError("the teacher was asked")

    hook = teacher.register_forward_pre_hook(refuse)
    try:
        Objective(build_student("record", (), 11), teacher, (CE(),), 64)(*batch(), 0.0)
        with pytest.raises(AssertionError):
            Objective(build_student("record", (), 11), teacher, (KD(),), 64)(*batch(), 0.0)
    finally:
        hook.remove()


def test_a_term_that_has_not_begun_or_is_over_costs_nothing_and_is_judged_by_nothing(teacher):
    asked = []
    hook = teacher.register_forward_pre_hook(lambda *_: asked.append(1))
    terms = (CE(), Hint(student="blocks.1", teacher="layer1", ramp="second half"), KD(ramp=((0.6, 1), (0.7, 0))))
    objective = Objective(build_student("record", (), 11), teacher, terms, 64)
    asked.clear()  # the look at a blank picture
    try:
        found = {p: objective(*batch(), p)[1] for p in (0.0, 0.5, 0.8)}
    finally:
        hook.remove()
    assert len(asked) == 3
    assert [values["hint layer1"].item() > 0 for values in found.values()] == [False, True, True]
    assert [values["kd"].item() > 0 for values in found.values()] == [True, True, False]


def test_a_weight_that_is_zero_for_a_moment_is_still_computed_and_logged(teacher):
    _, values = Objective(build_student("boss", (), 11), teacher, recipe("boss").distill, 64)(*batch(), 0.0)
    assert values["kd"] > 0
    assert values["ce"] > 0


def test_taps_leave_no_hook_behind_and_see_the_mode_that_the_network_is_in(teacher):
    student, (x, y) = build_student("record", (), 11).train(), batch()
    Objective(student, teacher, (KD(), Hint(student="blocks.1", teacher="layer2")), 64)(x, y, 0.5)
    assert student.training
    assert not any(module._forward_hooks for network in (student, teacher) for module in network.modules())
    assert student.blocks[0].bn1.num_batches_tracked == 1  # the look at a blank picture was in evaluation mode


@pytest.mark.parametrize("place", [{"student": "blocks.1", "teacher": "fc"}, {"student": "fc", "teacher": "layer1"}])
def test_a_module_that_gives_no_map_is_refused(teacher, place):
    with pytest.raises(KitError, match=r"'fc', which gives no feature map"):
        Objective(build_student("record", (), 11), teacher, (AT(**place),), 64)


def test_review_hands_what_it_fused_to_the_stage_above(teacher):
    """The shallowest stage's loss reaches the student's deepest block by way of the fusion."""
    student = build_student("record", (), 11)
    objective = Objective(student, teacher, (Review(**STAGES),), 64)
    ours, theirs = (look(network, STAGES[side], batch()[0]) for side, network in (("student", student), ("teacher", teacher)))
    (review,) = objective.adapters
    deep, shallow = torch.randn_like(ours["blocks.5"], requires_grad=True), ours["blocks.1"].detach()
    _, up = review.fusions[2](deep, None)
    fused, _ = review.fusions[0](shallow, up)
    features.hcl(*same_size(fused, theirs["layer1"])).backward()
    assert deep.grad.abs().sum() > 0


def test_afd_learns_to_follow_the_stage_that_is_most_alike():
    """Two stages to follow, one of which shows what the teacher's does: its share grows."""
    seen = torch.rand(8, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    ours, theirs = [seen + 0.5 * seen.mean((2, 3), keepdim=True), 1 - seen], [seen]
    torch.manual_seed(0)
    term = OF_MAPS[AFD](AFD(student=("a", "b"), teacher=("c",), width=4), [(6, 8, 8)] * 2, [(6, 8, 8)])
    optimizer, before = torch.optim.Adam(term.parameters(), lr=0.05), term(ours, theirs).item()
    for _ in range(40):
        optimizer.zero_grad()
        term(ours, theirs).backward()
        optimizer.step()
    alike = features.afd(features.attention(ours[0])[:, None], features.attention(theirs[0]), torch.ones(8, 1)).item()
    assert term(ours, theirs).item() == pytest.approx(alike, rel=0.1)
    assert before > 2 * alike


def test_simkd_keeps_the_teachers_classifier_frozen(teacher):
    student = build_student("record", (32, 32, 32, 48, 48, 48, 512), 11)
    take_classifier(student, teacher)
    objective = Objective(student, teacher, (SimKD(**LAST),), 64)
    total, _ = objective(*batch(), 0.5)
    total.backward()
    assert torch.equal(classifier(student).weight, teacher.fc.weight)
    assert not any(p.requires_grad for p in classifier(student).parameters())
    assert student.blocks[0].pointwise.weight.grad.abs().sum() > 0
    assert len(list(objective.adapters.parameters())) == 0


def test_simkd_with_a_student_of_another_width_is_refused_with_the_width_that_fits(teacher):
    with pytest.raises(KitError, match=r"512 wide, and the student's last map has 120 channels.*end student.widths with 512"):
        take_classifier(build_student("record", (), 11), teacher)
