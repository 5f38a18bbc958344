"""The shortest way through everything."""

import json


def test_a_photo_gets_its_label_from_the_embedded_model(run, coffee):
    result = run("classify", coffee, "--labels", "a cup of coffee,rocket,temple", "--model", "tiny", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["label"] == "a cup of coffee"
    assert abs(sum(one["score"] for one in record["scores"]) - 1) < 1e-5
    assert record["error"] is None
    assert record["model"] == "tiny"
