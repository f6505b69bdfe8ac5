"""The documentation of the API as a plain page: made from its OpenAPI schema, without scripts and without a network."""

from __future__ import annotations

import json
from typing import Any

import jinja2

PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ info.title }} API</title><link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="style.css"></head>
<body>
<main>
<h1>{{ info.title }} {{ info.version }}</h1>
<p>{{ info.description }} Schema: <a href="openapi.json">OpenAPI</a>. <a href="./">Web page</a>.</p>
{% for endpoint in endpoints %}
<h2><code>{{ endpoint.method }} {{ endpoint.path }}</code></h2>
<p>{{ endpoint.summary }}. {{ endpoint.description }}</p>
{% if endpoint.fields %}
<div class="scroll" tabindex="0" role="region" aria-label="Fields of {{ endpoint.path }}"><table class="stack">
<thead><tr><th scope="col">field</th><th scope="col">type</th><th scope="col">required</th>
<th scope="col">description</th></tr></thead>
<tbody>
{% for field in endpoint.fields %}
<tr><th scope="row"><code>{{ field.name }}</code></th><td data-name="type"><code>{{ field.type }}</code></td>
<td data-name="required">{{ "yes" if field.required else "no" }}</td><td>{{ field.description }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% endfor %}
</main>
</body></html>
"""


def api_page(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI schema."""
    models = schema.get("components", {}).get("schemas", {})
    endpoints = [
        {
            "method": method.upper(),
            "path": path,
            "summary": operation.get("summary", ""),
            "description": operation_model(operation, models).get("description", ""),
            "fields": list_fields(operation_model(operation, models)),
        }
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    return jinja2.Environment(autoescape=True).from_string(PAGE).render(info=schema["info"], endpoints=endpoints)


def operation_model(operation: dict[str, Any], models: dict[str, Any]) -> dict[str, Any]:
    """The schema of the request of an operation; empty if it has none."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    model: dict[str, Any] = models.get(content.get("$ref", "").rpartition("/")[2], {})
    return model


def list_fields(model: dict[str, Any]) -> list[dict[str, Any]]:
    required = model.get("required", [])
    return [
        {
            "name": name,
            "type": describe_type(field),
            "required": name in required,
            "description": field.get("description", ""),
        }
        for name, field in model.get("properties", {}).items()
    ]


def describe_type(field: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "anyOf" in field:
        return " | ".join(describe_type(option) for option in field["anyOf"])
    if "enum" in field:
        return " | ".join(json.dumps(value) for value in field["enum"])
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if field.get("type") == "array":
        return f"[{describe_type(field.get('items', {}))}]"
    bounds = (field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum"))
    low, high = ("" if bound is None else f"{bound:.16g}" for bound in bounds)
    return str(field.get("type", "any")) + (f" {low}…{high}" if low or high else "")
