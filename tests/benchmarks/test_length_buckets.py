import importlib.util
import sys
from pathlib import Path

import pytest
import text_zoo
import torch

SOURCE = Path(__file__).parents[2] / "benchmarks" / "length_buckets.py"
spec = importlib.util.spec_from_file_location("benchmarks_length_buckets", SOURCE)
buckets = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = buckets  # where its dataclass looks for its module
spec.loader.exec_module(buckets)


@pytest.fixture
def task_and_samples(tmp_path):
    data = text_zoo.review_data(kind="label", count=400)
    return text_zoo.text_task(text_zoo.make_bert(tmp_path / "bert"), data), data.train


def test_the_plain_task_reads_every_sample_once_in_parts_that_are_never_larger(task_and_samples):
    task, samples = task_and_samples
    plain = buckets.Plain.like(task)
    order = plain.order(samples, torch.Generator().manual_seed(0), size=32)
    assert torch.equal(order.sort().values, torch.arange(len(samples)))
    parts = [*plain.parts(samples, torch.arange(len(samples)), size=8)]
    assert torch.equal(torch.cat(parts), torch.arange(len(samples)))
    assert max(map(len, parts)) * task.tokenizer.max_length <= 32 * 8


def test_buckets_raise_the_share_of_real_tokens(task_and_samples):
    task, samples = task_and_samples
    plain, bucketed = (buckets.real_share(found, samples) for found in (buckets.Plain.like(task), task))
    lengths = task.encode(samples).lengths
    # Padding every update to the longest sample of all is the worst there is.
    assert lengths.mean() / lengths.max() < plain["train"] < bucketed["train"] <= 1
