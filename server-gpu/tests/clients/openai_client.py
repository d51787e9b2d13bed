"""OpenAI's own client against the server: argv is the base URL, a key, and a picture's data URL."""

import sys

import openai

base, key, picture = sys.argv[1:4]
client = openai.OpenAI(base_url=f"{base}/v1", api_key=key, max_retries=0)

names = [model.id for model in client.models.list()]
assert names == ["emoji-clip", "emoji-captioner"], names

texts = ["a red apple", "a dog"]
plain = client.embeddings.create(model="emoji-clip", input=texts, encoding_format="float")
# Without a format the client asks for base64 and decodes it.
packed = client.embeddings.create(model="emoji-clip", input=texts)
assert [item.embedding for item in plain.data] == [item.embedding for item in packed.data]
assert len(plain.data[0].embedding) == 192 and plain.usage.prompt_tokens > 0
short = client.embeddings.create(model="emoji-clip", input=[picture], dimensions=32)
assert len(short.data[0].embedding) == 32

messages = [{"role": "user", "content": [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": picture}},
]}]
whole = client.chat.completions.create(model="emoji-captioner", messages=messages)
stream = client.chat.completions.create(
    model="emoji-captioner", messages=messages, stream=True, stream_options={"include_usage": True}
)
text, usage, finish = "", None, None
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
assert text == whole.choices[0].message.content and text, (text, whole)
assert finish == "stop" and usage.completion_tokens == whole.usage.completion_tokens > 0

try:
    client.embeddings.create(model="none", input="x")
    raise SystemExit("a model that does not exist was served")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error
try:
    openai.OpenAI(base_url=f"{base}/v1", api_key="wrong-key", max_retries=0).models.list()
    raise SystemExit("a wrong key was served")
except openai.AuthenticationError:
    pass
print(text)
