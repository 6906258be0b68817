import logging
from collections import Counter

import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.export.session import Session
from compress.quantization.calibration import minmax
from compress.quantization.kernels import INT8_COMPANIONS, INT8_PRODUCTS
from compress.quantization.writer import plan_without_training, write_quantized


class Batches(CalibrationDataReader):
    def __init__(self, images):
        self._batches = iter([{"image": images[:64]}, {"image": images[64:128]}])

    def get_next(self):
        return next(self._batches, None)


@pytest.fixture(scope="module")
def files(trained, export, images, tmp_path_factory):
    """The trained network quantized by us and by ONNX Runtime, from the same batches."""
    directory = tmp_path_factory.mktemp("files")
    model = export(trained)
    plan = plan_without_training(model, lambda: [(images[:64],), (images[64:128],)], mode="static", find=minmax)
    onnx.save(write_quantized(model, plan), directory / "ours.onnx")
    onnx.save(model, directory / "float.onnx")
    logging.disable(logging.WARNING)  # it recommends the preprocessing that is done here
    try:
        quant_pre_process(directory / "float.onnx", directory / "ready.onnx")
        quantize_static(
            directory / "ready.onnx",
            directory / "ort.onnx",
            Batches(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)
    return directory


def kernels(path):
    optimized = path.with_suffix(".optimized.onnx")
    Session(path, save_optimized=optimized)
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


def test_the_same_int8_kernels_run_and_nothing_else_is_added(files):
    ours, ort = kernels(files / "ours.onnx"), kernels(files / "ort.onnx")
    int8 = INT8_PRODUCTS | INT8_COMPANIONS
    assert {name: ours[name] for name in int8} == {name: ort[name] for name in int8}
    assert ours.total() < ort.total()  # our head writes float by itself


def test_accuracy_on_real_digits_is_the_same_within_noise(files, images, labels):
    sessions = [Session(files / name) for name in ("ours.onnx", "ort.onnx")]
    correct = [(session(images[1200:])[0].argmax(1) == labels[1200:]).mean() for session in sessions]
    assert abs(correct[0] - correct[1]) < 0.01  # 6 of 597 digits; one standard error is 5


def test_our_file_is_not_larger(files):
    assert (files / "ours.onnx").stat().st_size <= (files / "ort.onnx").stat().st_size
