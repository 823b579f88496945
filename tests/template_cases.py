"""Small chat templates of our own, one a construct, and ones that take too much."""

# ruff: noqa: E501 (a template is easier to read in one line)

from __future__ import annotations

from typing import Any

CALL = {"type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": "é<"}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Add <1> & 2"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm.\n"},
    {"role": "tool", "content": "3", "tool_call_id": "x1", "name": "add"},
    {"role": "assistant", "content": "<think>\nyes\n</think>\n\n    It is 3."},
]
VALUES: dict[str, Any] = {
    "messages": MESSAGES,
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "enable_thinking": False,
}
CALLS = "{% for call in messages[2].tool_calls %}"
# template -> what it gives
RENDERED: dict[str, str] = {
    "{{ bos_token }}{{ eos_token }}{{ nothing }}": "<s></s>",
    "{% if tools is none and documents is none %}none{% endif %}": "none",
    "{{ tools is defined }} {{ nothing is defined }} {{ not tools }}": "True False True",
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n": "a\n  b\nc",  # blocks leave no line behind
    "{{ messages[4].content.split('</think>')[-1].lstrip('\\n') }}": "    It is 3.",
    "{{ '\\n\\n  x'.lstrip('\\n') }}|{{ 'xxhixx'.strip('x') }}|{{ 'a.b'.rstrip('b') }}": "  x|hi|a.",
    "{% if 'x'.strip() and '' .strip() == '' %}y{% endif %}": "y",
    "{{ messages[0].content | trim }}.": "Be brief..",
    "{{ messages[1].content }}": "Add <1> & 2",  # nothing is escaped
    "{{ messages[1] | tojson }}": '{"role": "user", "content": "Add <1> & 2"}',
    CALLS + "{{ call.function.arguments | tojson }}{% endfor %}": '{"b": 2, "a": "é<"}',
    CALLS + "{{ call.function.arguments | tojson(indent=1) }}{% endfor %}": (
        '{\n "b": 2,\n "a": "é<"\n}'
    ),
    "{{ {'b': 'é', 'a': [1, none, true, 1.5]} | tojson(ensure_ascii=true, sort_keys=true) }}": (
        '{"a": [1, null, true, 1.5], "b": "\\u00e9"}'
    ),
    "{{ {'a': 1, 'b': 2} | tojson(separators=(',', ':')) }}": '{"a":1,"b":2}',
    "{% set ns = namespace(n=0, seen=[]) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.seen = ns.seen + [m.role[0]] %}{% endfor %}{{ ns.n }} {{ ns.seen | join }}": "5 suata",
    "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% if loop.index > 3 %}"
    "{% break %}{% endif %}{{ m.role }} {% endfor %}": "system assistant ",
    "{% for m in messages if m.role == 'user' %}{{ loop.first }}{{ loop.last }}{% else %}-{% endfor %}": (
        "TrueTrue"
    ),
    "{% for m in messages %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.length }} {% endfor %}": (
        "055 145 235 325 415 "
    ),
    "{% for m in messages %}{{ loop.previtem.role[:1] if loop.previtem is defined }}"
    "{{ loop.nextitem.role[:1] if loop.nextitem is defined }} {% endfor %}": "u sa ut aa t ",
    "{% for a in [] %}x{% else %}none{% endfor %}": "none",
    "{% for key, value in messages[1].items() %}{{ key }}={{ value }};{% endfor %}": (
        "role=user;content=Add <1> & 2;"
    ),
    "{% for key, value in {'b': 1, 'a': 2} | dictsort %}{{ key }}{{ value }}{% endfor %}": "a2b1",
    "{% macro say(m, end='.') %}{{ m.role }}{{ end }}{% endmacro %}{{ say(messages[0]) }}"
    "{{ say(messages[1], end='!') }}": "system.user!",
    "{% macro tree(n) %}({% if n %}{{ tree(n - 1) }}{% endif %}){% endmacro %}{{ tree(3) }}": "(((())))",
    "{% macro box() %}[{{ caller('x') }}]{% endmacro %}{% call(v) box() %}{{ v }}{% endcall %}": "[x]",
    "{% for n in [1, [2, [3]]] recursive %}{{ loop(n) if n is iterable else n }}{% endfor %}": "123",
    "{% generation %}{{ messages[1].role }}{% endgeneration %}.": "user.",
    "{{ messages[1:3] | length }}{{ messages[::-1][0].role }}{{ 'abc'[-1] }}": "2assistantc",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}": (
        "['Add <1> & 2']"
    ),
    "{{ messages | rejectattr('content') | list | length }}": "1",
    "{{ messages | map(attribute='role') | unique | join('+') }}": "system+user+assistant+tool",
    "{{ (messages | last).role }} {{ (messages | first)['role'] }}": "assistant system",
    "{{ messages | groupby('role') | map(attribute='grouper') | list }}": (
        "['assistant', 'system', 'tool', 'user']"
    ),
    "{{ 'A-b'.lower() }}{{ 'ab'.upper() | title }}{{ 'x y'.split() }}{{ 'a,b'.split(',', 1)[1] }}": (
        "a-bAb['x', 'y']b"
    ),
    "{{ 'role' in messages[0] }}{{ 'x' not in 'abc' }}{{ 'ab'.startswith(('b', 'a')) }}": "TrueTrueTrue",
    "{{ '%s-%03d' | format('a', 7) }}{{ '%.2f' % 1.005 }}{{ '{}:{a}'.format(1, a=2) }}": "a-0071.001:2",
    "{{ 'a' ~ 1 ~ none ~ [1, 'b'] }}{{ 'a' + 'b' }}{{ 'ab' * 2 }}{{ [1] + [2] }}": (
        "a1None[1, 'b']ababab[1, 2]"
    ),
    "{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 ** 8 }}{{ 7 / 2 }}{{ -3 | abs }}{{ 2.567 | round(1) }}": "332563.532.6",
    "{{ 'a' if enable_thinking else 'b' }}{{ nothing | default('c') }}{{ '' | default('d', true) }}": "bcd",
    "{{ 1700000000 | default(1) }}{{ {'a': 1700000000}.get('b', 1700000000) }}": "17000000001700000000",
    "{%- set x -%} block {%- endset -%}{{ x }}": "block",
    "{% set a, b = 1, 2 %}{{ a + b }}{% with c = 3 %}{{ c }}{% endwith %}": "33",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}{% raw %}{{ c }}{% endraw %}{# d #}": "AB{{ c }}",
    "{{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}": "a\n  b|  a\n  b",
    "{{ 'a-b' | replace('-', '+') }}{{ 'a-b'.replace('-', '_') }}{{ 'x' | string | length }}": "a+ba_b1",
    "{{ messages == messages[0:] }}{{ 1 < bos_token | length < 9 }}{{ 'a' not in bos_token }}": (
        "TrueTrueTrue"
    ),
    "{{ messages[0].role is in(['system']) }}{{ 2 is ge(1) }}{{ (1, 2)[:1] }}{{ 'abc'[::-1] }}": (
        "TrueTrue(1,)cba"
    ),
    "{{ messages is sequence }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 1 is number }}": (
        "TrueTrueTrueTrue"
    ),
    "{{ messages[2].content is none }}{{ messages[0].tool_calls is defined }}": "TrueFalse",
    "{{ range(3) | list }}{{ [3, 1] | sort }}{{ [1, 2] | sum }}{{ [1, 2] | max }}": "[0, 1, 2][1, 3]32",
    "{{ dict(a=1) }}{{ {'a': 1} | items | list }}{{ [1, 2, 3] | batch(2) | list }}": (
        "{'a': 1}[('a', 1)][[1, 2], [3]]"
    ),
    "{{ strftime_now('%Y') | int > 2000 }}{{ strftime_now('%d %b %Y') | length }}": "True11",
    "{{ 'Ünïcödé 🙂' | upper }}{{ '🙂' | length }}{{ ['é'] }}": "ÜNÏCÖDÉ 🙂1['é']",
    "{{ joiner('|') and cycler(1, 2).next() }}": "1",
}
LARGER, LONGER, DEEPER = "more than 16,777,216", "it takes longer than", " deep"
GROW = "{% set ns = namespace(s='x') %}{% for i in range(999) %}{% set ns.s = @ %}{% endfor %}{{ ns.s }}"
ROUNDS = "{% for i in range(99999) %}{% for j in range(99999) %}@{% endfor %}{% endfor %}"
BIG = (
    "{% set s = 'X' * 8000000 ~ 'Y' %}{% set t = 'X' * 8000000 ~ 'Z' %}{% set u = 'X' * 4000 ~ 'Z' %}"
    "{% set l = [0] * 500000 %}{% set m = [0] * 500000 %}{% set n = namespace(t=(1,)) %}"
    "{% for i in range(16) %}{% set n.t = (n.t, n.t) %}{% endfor %}{% set k = n.t %}"
)
# template -> what is told
REFUSED: dict[str, str] = {
    "{{ raise_exception('Roles must alternate') }}": "refuses these messages: Roles must alternate",
    "{{ raise_exception('no ' * 9999) }}": "no no no no",
    "{{ nothing.at.all }}": "'nothing' is undefined",
    "{{ messages[0].content + 1 }}": "TypeError: can only concatenate",
    "{% include 'other' %}": "no loader",
    "{{ messages.append(1) }}": "is unsafe",
    "{{ ''.__class__.__mro__ }}": "is unsafe",
    "{{ range(10 ** 9) | list }}": "Range too big",
    ROUNDS.replace("@", ""): LONGER,
    ROUNDS.replace("@", "x"): LONGER,
    "{% for i in range(99999) if range(99999) | list | sum < 0 %}{% endfor %}": LONGER,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(22) }}": LONGER,
    **{
        BIG + ROUNDS.replace("@", "{% if " + test + " %}{% endif %}"): LONGER
        for test in (
            "s == t",
            "s < t",
            "u in s",
            "1 is in(l)",
            "s is eq(t)",
            "s is upper",
            "{'a': 1}[k]",
            "[1, l] == [1, m]",
        )
    },
    "{% set s = 'x' * 16000000 %}"
    + ROUNDS.replace("@", "{% set x = s[::-1] %}"): "all that it makes",
    "{% set n = namespace(p=[1]) %}{% for i in range(20000) %}{% set n.p = n.p | map('string') %}"
    "{% endfor %}{{ n.p | list }}": DEEPER,
    "{{ strftime_now('%c' * 4000000) }}": "a date's format has 8,000,000",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": DEEPER,
    "{% for n in [1] recursive %}{{ loop([1]) }}{% endfor %}": DEEPER,
    "{% block a %}{{ self.a() }}{% endblock %}": DEEPER,
    "{% set s = 'x' * 10 ** 6 %}{% for i in range(134) %}{{ s }}{% endfor %}": LARGER,
    "{% set s %}{% for i in range(134) %}{{ 'x' * 10 ** 6 }}{% endfor %}{% endset %}": LARGER,
    "{% set ns = namespace(s=[]) %}" + ROUNDS.replace("@", "{% set ns.s = ['x' * 10 ** 6] %}"): (
        "all that it makes"
    ),
    **{
        GROW.replace("@", growth): DEEPER if growth == "[ns.s]" else LARGER
        for growth in (
            "ns.s ~ ns.s",
            "ns.s + ns.s",
            "ns.s * 2",
            "[ns.s]",
            "[ns.s, ns.s]",
            "(ns.s, ns.s)",
            "{'a': ns.s, 'b': ns.s}",
            "dict(a=ns.s, b=ns.s)",
            "'%s%s' % (ns.s, ns.s)",
            "'{}{}'.format(ns.s, ns.s)",
            "'%s%s' | format(ns.s, ns.s)",
            "ns.s.replace('x', 'xx')",
            "ns.s | replace('x', 'xx')",
            "ns.s.join([ns.s, ns.s])",
            "[ns.s, ns.s] | join",
        )
    },
    **{
        "{{ " + bomb + " }}": LARGER
        for bomb in (
            "'x' * 10 ** 9",
            "[1] * 10 ** 9",
            "10 ** (10 ** 9)",
            "'%0999999999d' % 5",
            "'%*d' % (999999999, 5)",
            "'{:>999999999}'.format(1)",
            "'{:>{}}'.format(1, 999999999)",
            "'{a:>{b}}'.format_map({'a': 1, 'b': 999999999})",
            "'x'.center(10 ** 9)",
            "'x'.zfill(10 ** 9)",
            "'x' | center(10 ** 9)",
            "'x' | indent(10 ** 9, true)",
            "('\n' * 99999) | indent(99999)",
            "'\t'.expandtabs(10 ** 9)",
            "lipsum(n=10 ** 9)",
            "[1] | slice(10 ** 9) | list",
            "[1] | batch(10 ** 9, 'x') | list",
            "5 | round(-10 ** 9)",
            "messages | tojson(indent=10 ** 9)",
            "(1).to_bytes(10 ** 9, 'big')",
            "('x ' * 10 ** 7) | wordwrap(1)",
            "('é' * 10 ** 7) | list",
            "('xy' * 8000000).split('x')",
            "('x' * 4000000).strip('abcdefgh' * 9999 ~ 'x')",
            "('x' * 4000000) | trim('abcdefgh' * 9999 ~ 'x')",
            "('x' * 9999).encode('punycode')",
            "('x' * 9999).encode().decode('punycode')",
            "('é' * 16000000) | urlencode",
            "[1] | batch(16000000, 'x') | list",
            "range(9) | slice(9000000) | list",
        )
    },
}
# template -> why it cannot be compiled
BROKEN: dict[str, str] = {
    "{% if %}": "does not parse: Expected an expression",
    "{{ messages": "does not parse: unexpected end of template",
    "{% for m in messages %}": "does not parse: Unexpected end of template",
    "{% nonsense %}": "does not parse: Encountered unknown tag 'nonsense'",
    "{{ a | nonsense }}": "does not parse: No filter named 'nonsense'",
    "{{ '%0999999999d' | format(5) }}": "cannot be compiled: it makes",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "it nests too deep",
    "{{ " + "a + " * 90 + "a }}": "it nests too deep",
    "{{ a" + " | upper" * 400 + " }}": "it nests too deep",
    "{% for a in [1] %}" * 40 + "{% endfor %}" * 40: "it nests too deep",
    "x" * 200_000: "200,000 characters",
}
