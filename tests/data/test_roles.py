import tracemalloc

import numpy as np
import pytest

from compress.data import Samples
from compress.data.roles import Split, assign, subset
from compress.data.source import Raw, class_numbers
from compress.errors import DataError

SPLIT = Split(test=0.2, select=40, calibration=10)


def raw(**roles: tuple) -> Raw:
    return Raw({role: Samples(*pair) for role, pair in roles.items()}, ())


def hashes(data, role) -> set:
    return set(data.roles[role].hashes)


def test_missing_roles_are_drawn_without_overlap_and_in_proportion(images, labels):
    data = assign(raw(train=(images, labels)), split=SPLIT, overlap="refuse")
    sizes = {role: len(samples) for role, samples in data.roles.items()}
    assert sizes == {"train": 110, "test": 40, "select": 40, "calibration": 10}
    assert np.bincount(data.test.labels).tolist() == [20, 12, 6, 2]
    assert len(set().union(*(hashes(data, role) for role in sizes))) == 200


def test_the_order_of_samples_changes_nothing(images, labels):
    shuffled = np.random.default_rng(1).permutation(len(images))
    first = assign(raw(train=(images, labels)), split=SPLIT, overlap="refuse")
    second = assign(raw(train=(images[shuffled], labels[shuffled])), split=SPLIT, overlap="refuse")
    assert first.digest == second.digest


def test_another_seed_draws_other_samples(images, labels):
    first, second = (
        assign(raw(train=(images, labels)), split=SPLIT.model_copy(update={"seed": seed}), overlap="refuse")
        for seed in (0, 1)
    )
    assert hashes(first, "test") != hashes(second, "test")


def test_a_later_role_does_not_move_an_earlier_one(images, labels):
    first, second = (
        assign(raw(train=(images, labels)), split=SPLIT.model_copy(update={"select": size}), overlap="refuse")
        for size in (40, 50)
    )
    assert hashes(first, "test") == hashes(second, "test")


def test_duplicates_are_dropped_and_counted_before_the_split(images, labels):
    doubled = (np.concatenate([images, images[:7]]), np.concatenate([labels, labels[:7]]))
    data = assign(raw(train=doubled), split=SPLIT, overlap="refuse")
    assert data.dropped_duplicates == 7
    assert sum(map(len, data.roles.values())) == 200


def test_train_may_be_unlabelled_when_others_are_not(images, labels):
    labelled = labels[80:115]
    fixed = raw(train=(images[:130], None), select=(images[130:165], labelled), test=(images[165:], labelled))
    data = assign(fixed, split=SPLIT, overlap="refuse")
    assert data.train.labels is None
    assert len(data.calibration) == 10


def test_overlapping_roles_are_refused(images, labels):
    overlapping = raw(train=(images, labels), test=(images[95:105], labels[95:105]))
    with pytest.raises(DataError, match="10 train samples are also in another role") as caught:
        assign(overlapping, split=SPLIT, overlap="refuse")
    assert "drop-from-train" in str(caught.value)


def test_an_overlap_leaves_train_when_asked_and_never_test(images, labels):
    overlapping = raw(train=(images, labels), test=(images[95:105], labels[95:105]))
    data = assign(overlapping, split=SPLIT, overlap="drop-from-train")
    assert data.dropped_duplicates == 10
    assert len(data.test) == 10
    assert not hashes(data, "train") & hashes(data, "test")


def test_an_overlap_of_select_and_test_is_never_dropped(images, labels):
    part = (images[90:110], labels[90:110])
    with pytest.raises(DataError, match="in two roles"):
        assign(raw(train=(images[:80], labels[:80]), select=part, test=part), split=SPLIT, overlap="drop-from-train")


def faulty(images: np.ndarray, labels: np.ndarray) -> dict[str, tuple[dict, str]]:
    not_finite = images.astype(np.float32)
    not_finite[3, 0, 0, 0] = np.nan
    outside, gap = labels.copy(), labels.copy()
    outside[5], gap[5] = -1, 250
    return {
        "no train": ({"test": (images, labels)}, "train role is missing"),
        "empty": ({"train": (images, labels), "select": (images[:0], labels[:0])}, "select role is empty"),
        "float64": ({"train": (images.astype(np.float64), labels)}, "float64"),
        "flat": ({"train": (images.reshape(4000), labels)}, "neither text nor arrays"),
        "nan": ({"train": (not_finite, labels)}, "sample 3"),
        "out of range": ({"train": (images, outside)}, "out of range"),
        "gap": ({"train": (images, gap)}, "skip numbers"),
        "single class": ({"train": (images, np.zeros_like(labels))}, "single class"),
        "too few labels": ({"train": (images, labels[1:])}, "do not pair"),
        "unlabelled": ({"train": (images, None)}, "no role has labels"),
        "other size": ({"train": (images, labels), "test": (images[:, :, 1:], labels)}, "different kinds"),
        "select too small": (
            {"train": (images[31:], labels[31:]), "select": (images[:31], labels[80:111])},
            "select role is too small",
        ),
        "too small": ({"train": (images[95:135], labels[95:135])}, "train is too small"),
    }


@pytest.mark.parametrize("fault", list(faulty(np.zeros((200, 1, 5, 4), np.uint8), np.zeros(200, np.int64))))
def test_unusable_data_are_refused(images, labels, fault):
    roles, message = faulty(images, labels)[fault]
    with pytest.raises(DataError, match=message):
        assign(Raw(raw(**roles).roles, ()), split=Split(test=20, select=15, calibration=5), overlap="refuse")


@pytest.mark.parametrize("number", [2**40, 4294967295])
def test_a_label_that_marks_no_class_is_refused_without_counting_up_to_it(images, labels, number):
    tracemalloc.start()
    with pytest.raises(DataError, match="(?s)skip numbers.*no sample of 4, 5, .* 11 and others.*no class"):
        assign(raw(train=(images, np.append(labels[1:], number))), split=SPLIT, overlap="refuse")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_a_label_beyond_64_bits_is_refused():
    with pytest.raises(DataError, match="18446744073709551615"):
        class_numbers(np.array([0, 2**64 - 1], np.uint64))


def test_equal_inputs_come_in_the_order_of_their_labels(images, labels):
    twice = np.concatenate([images[:60], images[:60]]), np.concatenate([labels[:60] + 1, labels[:60]])
    shuffled = np.random.default_rng(0).permutation(120)
    fixed = raw(train=(images[60:], labels[60:]), select=tuple(part[shuffled] for part in twice))
    select = assign(Raw(fixed.roles, tuple("abcde")), split=SPLIT, overlap="refuse").select
    assert len(set(select.hashes)) == 60
    for at in range(0, 120, 2):
        assert select.hashes[at] == select.hashes[at + 1]
        assert select.labels[at] + 1 == select.labels[at + 1]


def test_equal_inputs_with_different_labels_leave_train_and_are_counted(images, labels):
    doubled = np.concatenate([images, images[:9], images[:3]]), np.concatenate([labels, labels[:5], [3] * 4, [2] * 3])
    data = assign(raw(train=doubled), split=SPLIT, overlap="refuse")
    # 0, 1 and 2 with classes 0 and 2, 5 to 8 with 0 and 3; what is left of the copies are 3 and 4.
    assert data.notes == ("7 inputs of train have several labels: left out, as none is known to be right",)
    assert data.dropped_duplicates == 2
    found = {digest for role in data.roles for digest in hashes(data, role)}
    assert found == set(Samples(images, None).hashes[9:] + Samples(images, None).hashes[3:5])
    shuffled = np.random.default_rng(0).permutation(len(doubled[0]))
    assert (
        assign(raw(train=tuple(part[shuffled] for part in doubled)), split=SPLIT, overlap="refuse").digest
        == data.digest
    )


def test_roles_that_the_source_fixes_keep_their_conflicts_and_tell_them(images, labels):
    parts = {"train": slice(0, 110), "calibration": slice(110, 120), "select": slice(60, 120), "test": slice(120, 200)}
    roles = {role: (images[part], labels[part]) for role, part in parts.items()}
    roles["select"] = (images[range(120, 160)][[*range(40), 0]], np.append(labels[120:160], 0))
    roles["test"] = (images[160:], labels[160:])
    data = assign(raw(**roles), split=SPLIT, overlap="refuse")
    assert len(data.select) == 41
    assert data.notes == ("1 inputs of select have several labels: all kept",)


def test_a_train_role_of_nothing_but_conflicts_is_refused(images, labels):
    twice = np.concatenate([images, images]), np.concatenate([labels, (labels + 1) % 4])
    with pytest.raises(DataError, match=r"(?s)every input.*several labels.*200 different inputs in 400 samples"):
        assign(raw(train=twice), split=SPLIT, overlap="refuse")


def test_a_thousand_labels_that_are_all_the_same_are_refused_in_a_line(images):
    same = np.zeros((len(images), 1000), np.uint8)
    with pytest.raises(DataError, match="all labels of the train role are the same") as caught:
        assign(raw(train=(images, same)), split=SPLIT, overlap="refuse")
    assert "0 and 980 others" in str(caught.value)
    one = same.copy()
    one[:, 7] = np.arange(len(images)) % 2
    assert assign(raw(train=(images, one)), split=SPLIT, overlap="refuse").test.labels.sum() > 0


def test_a_label_beyond_the_named_classes_is_refused(images, labels):
    with pytest.raises(DataError, match="out of range") as caught:
        assign(Raw(raw(train=(images, labels)).roles, ("a", "b", "c")), split=SPLIT, overlap="refuse")
    assert "0 to 2" in str(caught.value)
    assert "3 (10 such labels)" in str(caught.value)
    assert "train, sample 190" in str(caught.value)


def test_a_subset_keeps_every_class(images, labels):
    data = subset(assign(raw(train=(images, labels)), split=SPLIT, overlap="refuse"), per_role=20)
    assert {role: len(samples) for role, samples in data.roles.items()} == {
        "train": 20, "test": 20, "select": 20, "calibration": 10
    }  # fmt: skip
    assert np.bincount(data.train.labels).tolist() == [10, 6, 3, 1]
