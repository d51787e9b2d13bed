"""Writes cases.json: chat templates of the kinds that models have, and what Jinja2 makes of them.

The environment is set up as transformers documents it for chat templates. Needs Python's jinja2 (3.1.6 was used):

    python3 make.py > cases.json
"""

import datetime
import json
import sys

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1725321845


def to_json(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise ValueError(message)


def strftime_now(form):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
env.filters["tojson"] = to_json
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = strftime_now

TEXT = [
    {"role": "system", "content": "  Be brief. <b>\n"},
    {"role": "user", "content": "Où est l'été? 😀"},
    {"role": "assistant", "content": "<think>hm</think>\nHere."},
    {"role": "user", "content": "And \"now\"?\n"},
]
PARTS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": [{"type": "text", "text": "And these "}, {"type": "image"}, {"type": "image"}]},
]
TOOLS = [{"function": {"name": "f<1>", "parameters": {"a": [1, 2.5, True, None], "b": {}, "c": "é'"}}}]

# Chat markup with a system message of its own where there is none.
CHATML = """{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' -}}
{%- endif -%}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""

# Brackets around the user's turns, the system message inside the first one; roles must alternate.
BRACKETS = """{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}
{% set system = messages[0]['content'].strip() %}
{% else %}
{% set rest = messages %}
{% set system = false %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate: ' ~ loop.index0) }}
    {% endif %}
    {% if loop.index0 == 0 and system != false %}
        {% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- else %}
{{ ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{% endfor %}
"""

# Headers, a date, tools as JSON, and thoughts that are cut out of earlier answers.
HEADERS = """{{- bos_token }}
{%- set ns = namespace(last=none, count=0) %}
{%- for message in messages[::-1] %}
    {%- if message.role == "user" and ns.last is none %}
        {%- set ns.last = (messages | length - 1) - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- macro head(role) %}
<|header|>{{ role | title }}<|end|>
{% endmacro %}
{%- if tools is not none and tools is iterable %}
{{- head("tools") }}
Today is {{ strftime_now("%d %b %Y") }}.
{%- for tool in tools %}

{{ tool | tojson(indent=4) }}|{{ tool.function | tojson }}
{%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- continue %}
    {%- endif %}
    {%- if '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- head(message['role']) }}
    {%- generation %}
    {{- content }}{% if loop.index0 == ns.last %}*{% endif %}
    {%- endgeneration %}
    {%- if not loop.last and loop.nextitem.role.startswith('a') %}{{ "|" }}{% endif %}
    {%- set ns.count = ns.count + 1 %}
{%- endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}
({{ ns.count }} {{ none }} {{ true }} {{ 1.0 }} {{ undefined_thing }})
{%- if add_generation_prompt %}{{ head("assistant") }}{% endif %}
"""

# Parts, pictures as a token of their own.
PICTURES = """<|begin|>{% for message in messages %}{{ message['role'] | capitalize }}
{%- if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}
{%- for part in message['content'] %}
    {%- if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}{{ '<image>' }}{% endif %}
{%- endfor %}<|end|>
{% endfor %}
{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

# Python's methods.
METHODS = """{% for m in messages %}{% set c = m.get('content', '') %}
{{ c.upper() }}|{{ c.replace('e', 'E') }}|{{ m.get('nothing', 'x') }}|{{ c.endswith('\\n') }}|{{ c.rstrip() | length }}
{% for k, v in m | dictsort %}{{ k }}={{ v.split()[0] }};{% endfor %}
{% endfor %}{{ messages | map(attribute='role') | unique | list | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ "%s-%d" | format("a", 3) }} {{ 7 // 2 }} {{ "a" * 3 }}
{{ (messages | last).role }} {{ ['x', 'y'] | tojson }} {{ dict(a=1) | tojson }} {{ "é<'>&" | tojson }} {{ -7 % 3 }}"""

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CASES = [
    ("chatml", CHATML, TEXT, {}, True),
    ("chatml without system", CHATML, TEXT[1:2], {}, False),
    ("brackets", BRACKETS, TEXT, {}, True),
    ("brackets without system", BRACKETS, TEXT[1:], {}, False),
    ("brackets that refuse", BRACKETS, TEXT[:2] + TEXT[1:], {}, True),
    ("headers", HEADERS, TEXT, {}, True),
    ("headers with tools", HEADERS, TEXT, {"tools": TOOLS, "enable_thinking": False}, True),
    ("headers and parts", HEADERS, TEXT + PARTS, {"enable_thinking": True}, False),
    ("pictures", PICTURES, PARTS, {}, True),
    ("methods", METHODS, TEXT, {}, False),
]

cases = []
for name, template, messages, variables, prompt in CASES:
    case = {"name": name, "template": template, "messages": messages, "variables": variables, "prompt": prompt}
    # Jinja2 knows this tag only through an extension that transformers defines.
    plain = template.replace("%- generation %", "%- if true %").replace("%- endgeneration %", "%- endif %")
    values = {"tools": None, "documents": None, **TOKENS, **variables}
    try:
        case["text"] = env.from_string(plain).render(messages=messages, add_generation_prompt=prompt, **values)
    except ValueError as error:
        case["raised"] = str(error)
    cases.append(case)
json.dump({"now": NOW, "tokens": TOKENS, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)
print()
