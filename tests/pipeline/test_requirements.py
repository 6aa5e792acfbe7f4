from bncap.pipeline.requirements import installed_version, locked_versions


def test_direct_dependencies_are_locked_and_test_tools_are_none_of_them():
    locked = locked_versions()
    assert {"torch", "numpy", "pydantic"} <= set(locked) and not {"pytest", "ruff", "pot", "triton"} & set(locked)


def test_the_local_part_of_a_version_does_not_count(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.14.1+cpu")
    assert installed_version("torch") == "2.14.1"
    monkeypatch.undo()
    assert installed_version("no-such-package") is None
