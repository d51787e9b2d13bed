"""NVIDIA's gRPC client of the Open Inference Protocol against the server: argv is host:port and a key."""

import sys
import time

import numpy
import tritonclient.grpc as grpc

address, key = sys.argv[1:]
client = grpc.InferenceServerClient(address)
headers = {"authorization": f"Bearer {key}"}

# Probes need no key.
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("emoji-clip.image", "1", headers=headers)
assert client.get_server_metadata(headers=headers).name == "lenslet-server"
metadata = client.get_model_metadata("emoji-clip.image", headers=headers)
assert metadata.inputs[0].name == "pixel_values" and metadata.inputs[0].datatype == "FP32", metadata
assert metadata.inputs[0].shape[0] == -1 and metadata.versions == ["1"], metadata

pixels = numpy.random.default_rng(0).normal(size=(2, 3, 112, 112)).astype(numpy.float32)


def infer(values, datatype, model="emoji-clip.image", headers=headers, **options):
    tensor = grpc.InferInput("pixel_values", values.shape, datatype)
    tensor.set_data_from_numpy(values)
    output = grpc.InferRequestedOutput("image_embeds")
    result = client.infer(model, [tensor], outputs=[output], request_id="7", headers=headers, **options)
    assert result.get_response().id == "7"
    vectors = result.as_numpy("image_embeds")
    assert vectors.shape == (2, 192) and vectors.dtype == numpy.float32, (vectors.shape, vectors.dtype)
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


wanted = infer(pixels, "FP32", priority=1, client_timeout=60.0)
cosines = (infer(pixels.astype(numpy.float16), "FP16", timeout=60_000_000) * wanted).sum(axis=1)
assert cosines.min() > 0.999, cosines


def refused(code, **options):
    try:
        infer(**{"values": pixels, "datatype": "FP32", **options})
    except grpc.InferenceServerException as error:
        assert code in error.status(), (code, error)
    else:
        raise SystemExit(f"{options} were served")


refused("INVALID_ARGUMENT", values=pixels[:, :2])
refused("NOT_FOUND", model="emoji-clip.sound")
refused("NOT_FOUND", model_version="2")
refused("UNAUTHENTICATED", headers={})
refused("UNAUTHENTICATED", headers={"authorization": "Bearer another"})
refused("DEADLINE_EXCEEDED", client_timeout=1e-6)

# Calls without an answer yet share one connection.
tensor = grpc.InferInput("pixel_values", pixels.shape, "FP32")
tensor.set_data_from_numpy(pixels)
results = []
for _ in range(8):
    client.async_infer(
        "emoji-clip.image",
        [tensor],
        headers=headers,
        callback=lambda result, error: results.append((result, error)),
    )
started = time.monotonic()
while len(results) < 8 and time.monotonic() - started < 60:
    time.sleep(0.01)
assert len(results) == 8 and all(error is None for _, error in results), results
client.close()
