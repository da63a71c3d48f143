"""Selector values are rendered as Go's text/template renders them; the expected texts are Go's own output."""

import pytest

from forwarder.mesh.label_template import rendered

LABELS = {"nodeName": "node-1", "x": "1", "a.b": "dotted", "app-name": "dash"}

RENDERED = [
    ("plain", "plain"),
    ("", ""),
    ("{{.nodeName}}", "node-1"),
    ("{{ .nodeName }}", "node-1"),
    ("{{  .nodeName  }}", "node-1"),
    ("{{\n.x\n}}", "1"),
    ("a-{{.nodeName}}-b", "a-node-1-b"),
    ("{{.x}}{{.nodeName}}", "1node-1"),
    ("{{.missing}}", "<no value>"),
    ("{{ .missing }}", "<no value>"),
    ("{{.missing.deep}}", "<no value>"),
    ("{{.a.b}}", "<no value>"),
    ("{{.X}}", "<no value>"),
    ("{{._x}}", "<no value>"),
    ("{{.é}}", "<no value>"),
    ('{{index . "x"}}', "1"),
    ('{{ index .  "x"  }}', "1"),
    ("{{index . `x`}}", "1"),
    ('{{index $ "x"}}', "1"),
    ('{{ index . "a.b" }}', "dotted"),
    ('{{ index . "app-name" }}', "dash"),
    ('{{index . "\\u0078"}}', "1"),
    ('{{ index . "missing" }}', ""),
    ('{{index . "q\\"uote"}}', ""),
    ("{{$.x}}", "1"),
    ("{{( .x )}}", "1"),
    ('{{(index . "x")}}', "1"),
    ('{{"lit"}}', "lit"),
    ("{{`raw`}}", "raw"),
    ("{{- .x -}}", "1"),
    ("a {{- .x -}} b", "a1b"),
    ("a {{ .x }} b", "a 1 b"),
    ("{{.x -}} b", "1b"),
    ("{{.x}}\n", "1\n"),
    ("{{.x}} }}", "1 }}"),
    ("}}", "}}"),
    ("{{/* comment */}}", ""),
    ("a{{/* c */}}b", "ab"),
    ("{{- /* c */ -}}", ""),
]

REFUSED = [
    "{{",
    "{{.x",
    "{{}}",
    "{{ }}",
    "{{.app-name}}",
    "{{ nodeName }}",
    "{{index . x}}",
    "{{{.x}}}",
    "{{-.x}}",
    "{{ .x-}}",
    "{{ . x }}",
    "{{/* c }}",
    "{{ /* c */ }}",
    "{{.x .nodeName}}",
    "{{nil}}",
    "{{.x.deep}}",
    '{{index . "\\q"}}',
    "{{.x}} {{",
]


@pytest.mark.parametrize(("template", "text"), RENDERED)
def test_a_template_is_rendered_as_go_does(template: str, text: str) -> None:
    assert rendered(template, LABELS) == text


@pytest.mark.parametrize("template", REFUSED)
def test_what_go_refuses_is_taken_literally(template: str) -> None:
    assert rendered(template, LABELS) == template


@pytest.mark.parametrize("template", ["{{if .x}}y{{end}}", '{{ .x | printf "%s!" }}', "{{len .x}}", "{{.}}"])
def test_what_is_go_but_not_here_is_taken_literally(template: str) -> None:
    assert rendered(template, LABELS) == template
