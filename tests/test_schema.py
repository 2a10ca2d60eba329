"""Whatever the schema allows, and whatever it does not: the server never breaks over it."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from serving import running, workspace_of


@pytest.mark.parametrize("examples", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_no_request_breaks_the_server(tmp_path, examples):
    import schemathesis

    with running(
        workspace_of(tmp_path / "harbour"), workspace_of(tmp_path / "island", {"a.md": "A."})
    ) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        tried = 0
        for found in schema.get_all_operations():
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
                if _has_parameters(found.ok()) or mode is schemathesis.GenerationMode.POSITIVE:
                    _try(found.ok(), mode, examples)
                    tried += 1
        assert tried > 20


def _has_parameters(operation):
    return bool(list(operation.iter_parameters()) or operation.body)


def _try(operation, mode, examples):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    conforms = [content_type_conformance, response_schema_conformance, status_code_conformance]

    @settings(
        max_examples=examples, deadline=None, database=None, phases=[Phase.generate], derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        case.call_and_validate(checks=[not_a_server_error, *conforms], timeout=20)

    ask()
