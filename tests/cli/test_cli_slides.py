"""import, embed, predict on the command line."""

from quickstudy import add, study, tiny


def test_slides_of_one_name_are_told_apart_and_an_unclear_one_is_refused(tmp_path, run):
    with study(tmp_path, 0) as project:
        for seed, name in enumerate(["a/1.tif", "b/1.tif", "b/2.tif"]):
            tiny(tmp_path / name, seed)
        folder = project.path
    status, out, _ = run("import", folder, tmp_path / "a", tmp_path / "b")
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["a/1.tif", "b/1.tif", "2.tif"]
    status, _, err = run("labels", "show", folder, "--slide", "1")
    assert status == 2
    assert f"'1' may be any of {tmp_path / 'a' / '1.tif'}, {tmp_path / 'b' / '1.tif'}; give the path" in err
    assert run("labels", "show", folder, "--slide", "b/1")[0] == 0
    out = run("embed", folder)[1]
    assert [line.split(" ")[1] for line in out.splitlines()] == ["a/1:", "b/1:", "2:"]


def test_embed_needs_no_file_where_features_are_kept(tmp_path, run):
    with study(tmp_path, 1) as project:
        add(project, 1, bag=False)
    for path in (tmp_path / "slides").iterdir():
        path.unlink()
    status, out, err = run("embed", project.path)
    assert status == 1
    assert out.startswith("[1/2] s0: tiles 12, features ")
    assert "[2/2] s1: FAILED, There is no file" in out
    assert "1 of 2 slides failed" in err
