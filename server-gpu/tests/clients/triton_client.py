"""NVIDIA's client of the Open Inference Protocol against the server: argv is host:port."""

import sys

import numpy
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("emoji-clip.image")
metadata = client.get_model_metadata("emoji-clip.image")
assert metadata["inputs"][0]["name"] == "pixel_values" and metadata["inputs"][0]["datatype"] == "FP32", metadata

pixels = numpy.random.default_rng(0).normal(size=(2, 3, 112, 112)).astype(numpy.float32)


def infer(values, datatype, binary_in, binary_out):
    tensor = http.InferInput("pixel_values", values.shape, datatype)
    tensor.set_data_from_numpy(values, binary_data=binary_in)
    output = http.InferRequestedOutput("image_embeds", binary_data=binary_out)
    result = client.infer("emoji-clip.image", [tensor], outputs=[output], request_id="7")
    assert result.get_response()["id"] == "7"
    vectors = result.as_numpy("image_embeds")
    assert vectors.shape == (2, 192) and vectors.dtype == numpy.float32, (vectors.shape, vectors.dtype)
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


wanted = infer(pixels, "FP32", True, True)
for values, datatype, binary_in, binary_out in [
    (pixels, "FP32", False, False),
    (pixels, "FP32", True, False),
    (pixels.astype(numpy.float16), "FP16", True, True),
]:
    cosines = (infer(values, datatype, binary_in, binary_out) * wanted).sum(axis=1)
    assert cosines.min() > 0.999, (datatype, cosines)

try:
    infer(pixels[:, :2], "FP32", True, True)
    raise SystemExit("a tensor of the wrong shape was served")
except http.InferenceServerException as error:
    assert error.status() == "400", error
