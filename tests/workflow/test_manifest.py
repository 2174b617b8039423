"""Rows of a manifest find their slides by path, name or stem, and say when they cannot."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slidefiles import picture, write_pyramid
from slideserver import serving

from napari_mil.errors import LabelError, ProjectError
from napari_mil.labeltree import LabelTree
from napari_mil.samples import SAMPLE_TREE
from napari_mil.steps import drain
from napari_mil.workflow import Project, find_record, import_paths_steps
from napari_mil.workflow.manifest import match, read_manifest, stem

SUFFIXES = (".svs", ".tif", ".tiff")


def tiny(path, seed=0, mpp=(0.5, 0.5)):
    """A slide of a few tiles; another seed, another slide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_pyramid(path, picture(300, 400, seed), "zlib", mpp=mpp)


def written(path, *rows, header="slide,label"):
    path.write_text("\n".join([header, *rows]))
    return path


def matched(tmp_path, rows, files, folders=()):
    said = read_manifest(written(tmp_path / "m.csv", *rows))
    return match(said, [Path(f) for f in files], folders=map(Path, folders), suffixes=SUFFIXES)


def labels(found):
    return {str(file): row.get("label") for file, row in found.rows.items()}


def test_slides_of_one_name_in_two_folders_get_their_own_labels(tmp_path):
    files = ["/s/a/1.svs", "/s/b/1.svs", "/s/a/case.2.tif"]
    found = matched(tmp_path, ["a/1.svs,IC", "b/1.svs,N", "case,PB"], files)
    assert labels(found) == {"/s/a/1.svs": "IC", "/s/b/1.svs": "N"}
    assert [row.slide for row, _ in found.unused] == ["case"]  # the part before the first dot is no stem
    assert not found.refused


@pytest.mark.parametrize("said", ["case.2", "case.2.ome.tif", "x/case.2.ome.tif", "x\\case.2.ome.tif"])
def test_path_name_and_stem_all_find_a_slide(tmp_path, said):
    assert labels(matched(tmp_path, [f"{said},N"], ["/s/x/case.2.ome.tif"])) == {"/s/x/case.2.ome.tif": "N"}


def test_a_path_goes_before_a_name_and_a_name_before_a_stem(tmp_path):
    files = ["/s/1.tif", "/s/1.svs", "/t/1.tif"]
    found = matched(tmp_path, ["1.svs,N", "1.tif,IC", "t/1.tif,PB"], files)
    assert labels(found) == {"/s/1.svs": "N", "/t/1.tif": "PB", "/s/1.tif": "IC"}
    found = matched(tmp_path, ["1.tif,IC"], ["/s/1.tif", "/s/a/1.tif"], ["/s"])  # exact under the folder
    assert labels(found) == {"/s/1.tif": "IC"}


def test_a_name_that_several_slides_have_is_refused(tmp_path):
    found = matched(tmp_path, ["1.svs,N"], ["/s/a/1.svs", "/s/b/1.svs"])
    assert not found.rows
    assert not found.unused
    for sentence in found.refused.values():
        assert sentence.startswith("The manifest's '1.svs' (row 2) may mean /s/a/1.svs or /s/b/1.svs;")


def test_rows_that_contradict_each_other_are_refused_and_equal_ones_are_not(tmp_path):
    found = matched(tmp_path, ["1.svs,N", "1.svs,IC"], ["/s/1.svs"])
    assert "rows 2 and 3 say different things" in found.refused[Path("/s/1.svs")]
    assert labels(matched(tmp_path, ["1.svs,N", "1.svs,N"], ["/s/1.svs"])) == {"/s/1.svs": "N"}


def test_a_row_with_another_folder_counts_by_its_name_and_that_is_said(tmp_path):
    found = matched(tmp_path, ["/old/disk/1.svs,N"], ["/s/1.svs"])
    assert found.by_name == {Path("/s/1.svs")}
    assert matched(tmp_path, ["1.tif,N"], ["/s/1.svs"]).by_name
    assert not matched(tmp_path, ["1,N"], ["/s/1.svs"]).by_name
    assert not matched(tmp_path, ["s/1.svs,N", "2.svs,N"], ["/s/1.svs", "/s/2.svs"]).by_name


def test_a_row_that_another_outdoes_is_not_used_and_says_which(tmp_path):
    found = matched(tmp_path, ["1,N", "s/1.svs,IC", "2,N"], ["/s/1.svs"])
    assert labels(found) == {"/s/1.svs": "IC"}
    assert [(row.number, better and better.number) for row, better in found.unused] == [(2, 3), (4, None)]


NAMES = st.sampled_from(["1.svs", "1.tif", "2.svs", "1"])
PATHS = st.builds(lambda folder, name: f"{folder}{name}", st.sampled_from(["", "a/", "b/", "b/a/"]), NAMES)


@given(rows=st.lists(PATHS, max_size=6), files=st.sets(PATHS, max_size=6))
def test_every_row_and_file_is_settled_once_and_a_row_serves_one_slide(tmp_path_factory, rows, files):
    manifest = tmp_path_factory.mktemp("m") / "m.csv"
    said = read_manifest(written(manifest, *(f"{row},L{i}" for i, row in enumerate(rows))))
    paths = [Path("/s") / file for file in sorted(files)]
    found = match(said, paths, folders=[Path("/s")], suffixes=SUFFIXES)
    assert not set(found.rows) & set(found.refused)
    used = [row.number for row in found.rows.values()]
    assert len(used) == len(set(used))
    assert not set(used) & {row.number for row, _ in found.unused}
    for path in paths:  # an exact path is never overruled
        exact = [row for row in said if Path("/s", *row.parts) == path]
        if len(exact) == 1:
            assert found.rows[path] is exact[0]


@pytest.mark.parametrize(
    ("name", "bare"),
    [("a.b.svs", "a.b"), ("a.OME.TIFF", "a"), ("a.ome", "a.ome"), ("a", "a"), ("a.2", "a.2"), (".tif", "")],
)
def test_stems(name, bare):
    assert stem(name, SUFFIXES) == bare


def test_a_case_stands_in_one_split(tmp_path):
    rows = ["a.svs,c1,train", "b.svs,c1,test"]
    with pytest.raises(LabelError, match=r"case .c1. into two splits: a\.svs into train, b\.svs into test"):
        read_manifest(written(tmp_path / "m.csv", *rows, header="slide,case,split"))
    assert (
        len(
            read_manifest(
                written(tmp_path / "m.csv", "a.svs,c1,train", "b.svs,c1,", header="slide,case,split")
            )
        )
        == 2
    )


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffslide;case;label\r\na.svs;c 1;Benign/N\r\n",
        "slide\tcase\tlabel\na.svs\tc 1\tBenign/N\n",
        "slide, case, label\na.svs , c 1 , Benign/N \n",
        'Slide,"Case",LABEL,\n"a.svs","c 1",Benign/N,,\n\n',
    ],
)
def test_a_manifest_as_spreadsheets_write_it(tmp_path, text):
    (tmp_path / "m.csv").write_bytes(text.encode())
    (row,) = read_manifest(tmp_path / "m.csv")
    assert (row.slide, row.facts) == ("a.svs", {"case": "c 1", "label": "Benign/N"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slide,label\ns,1.svs,N\n", r"Row 2 of the manifest m.csv has more values than there are columns"),
        ("slide,slide,label\na,b,N\n", "has the column slide twice"),
        ('slide,label\na.svs,"N\nb.svs,IC\n', "cannot be read .unexpected end of data"),
        ("case,label\nc,N\n", "m.csv has the columns case, label; it needs `slide`"),
        ("", "m.csv has no columns; it needs `slide`"),
    ],
)
def test_a_manifest_that_would_be_read_wrongly_is_refused(tmp_path, text, said):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(LabelError, match=said):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize("time", ["-5", "nan", "inf", "x"])
def test_a_time_that_cannot_be_is_refused(tmp_path, time):
    (row,) = read_manifest(written(tmp_path / "m.csv", f"a.svs,{time},1", header="slide,time,event"))
    with pytest.raises(LabelError, match=rf"says time '{time}' and event '1' of a\.svs; a number from 0 on"):
        _ = row.follow_up


def test_columns_that_nobody_reads_are_told(tmp_path):
    tiny(tmp_path / "s" / "1.tif")
    manifest = written(tmp_path / "m.csv", "1.tif,IC,,70", header="slide,lable,split,age")
    rows = rows_of(tmp_path / "p", [tmp_path / "s"], manifest=manifest)
    assert rows["m.csv"] == {
        "slide": "m.csv",
        "ok": True,
        "note": "its columns age, lable are not used; a manifest has slide, case, label, time, event, split",
    }


def rows_of(*words, **more):
    return {row["slide"]: row for row in drain(import_paths_steps(*words, **more))}


def test_import_tells_what_the_manifest_did_not_tell(tmp_path):
    for seed, name in enumerate(["a/1.tif", "b/1.tif", "b/2.tif"]):
        tiny(tmp_path / "s" / name, seed)
    manifest = written(tmp_path / "m.csv", "a/1.tif,IC", "b/1.tif,N", "typo.tif,N")
    rows = rows_of(tmp_path / "p", [tmp_path / "s"], manifest=manifest)
    assert all(row["ok"] for row in rows.values())
    assert rows["2.tif"]["note"] == "no row of the manifest names it"
    assert rows["typo.tif"]["note"] == "row 4 of the manifest names no slide that is here"
    with Project(tmp_path / "p") as project:
        assert find_record(project, "a/1").label == "Malignant/IC"
        assert find_record(project, str(tmp_path / "s" / "b" / "1.tif")).label == "Benign/N"
        assert [r.case for r in project.slides] == ["1", "b/1", "2"]  # a name does not make one case of two
        with pytest.raises(ProjectError, match=r"'1' may be any of .*a/1\.tif, .*b/1\.tif; give the path"):
            find_record(project, "1")


def test_slides_that_are_here_follow_a_manifest_that_comes_later(tmp_path):
    first = tiny(tmp_path / "s" / "1.tif", 1)
    assert rows_of(tmp_path / "p", [first])["1.tif"]["ok"]
    first.unlink()  # the file is not needed for that
    manifest = written(tmp_path / "m.csv", "1.tif,c,N,test", header="slide,case,label,split")
    rows = rows_of(tmp_path / "p", [], manifest=written(tmp_path / "n.csv", "1.tif,N"))
    assert rows["1"]["note"] == "follows row 2 of the manifest now"
    assert not rows_of(tmp_path / "p", [], manifest=tmp_path / "n.csv")  # nothing new
    assert rows_of(tmp_path / "p", [], manifest=manifest)["1"]["note"].startswith("follows row 2")
    with Project(tmp_path / "p") as project:
        [record] = project.slides
        assert (record.case, record.label, record.split) == ("c", "Benign/N", "test")


def test_a_copy_of_a_slide_that_is_here_is_no_second_slide(tmp_path):
    old, new = (tiny(tmp_path / disk / "1.tif") for disk in ("old", "new"))
    manifest = written(tmp_path / "m.csv", "1.tif,N")
    for path in (old, new):
        assert rows_of(tmp_path / "p", [path], manifest=manifest)["1.tif"]["ok"]
    with Project(tmp_path / "p") as project:
        assert [r.path for r in project.slides] == [str(new)]


def test_another_tree_than_the_projects_is_said(tmp_path):
    path, trees = tiny(tmp_path / "1.tif"), [tmp_path / "own.json", tmp_path / "other.json"]
    trees[0].write_text(SAMPLE_TREE.to_json())
    trees[1].write_text(LabelTree.from_paths(["LUAD", "LUSC"]).to_json())
    for _ in range(2):  # the project's own may be named again
        assert rows_of(tmp_path / "p", [path], tree=trees[0])["1.tif"]["ok"]
    with pytest.raises(ProjectError, match=r"keeps its own label tree \(Benign/N, .*other.json is another"):
        drain(import_paths_steps(tmp_path / "p", [path], tree=trees[1]))
    with pytest.raises(LabelError, match=r"nope.json cannot be read \(No such file or directory\)"):
        drain(import_paths_steps(tmp_path / "q", [path], tree=tmp_path / "nope.json"))
    assert not (tmp_path / "q").exists()


def test_a_manifest_may_name_addresses(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "www").mkdir()
    tiny(tmp_path / "www" / "a b.tif")
    tiny(tmp_path / "here.tif", 1)
    with serving(tmp_path / "www") as server:
        there = f"{server.address}/a%20b.tif"
        said = written(
            tmp_path / "m.csv",
            f"{there},P1,ADH",
            "here.tif,P2,N",
            f"{server.address}/gone.tif,P3,N",
            header="slide,case,label",
        )
        rows = drain(
            import_paths_steps(tmp_path / "study", [tmp_path / "here.tif"], manifest=said, tree=None)
        )
        assert [row["ok"] for row in rows] == [True, True, False]
        assert "there is no file" in rows[2]["error"]
        with Project(tmp_path / "study") as project:
            known = {r.path: (r.name, r.case) for r in project.slides}
            assert known == {there: ("a b", "P1"), str(tmp_path / "here.tif"): ("here", "P2")}
            assert find_record(project, there).name == "a b"
            assert project.slide("a b").levels[0][:].shape == (300, 400, 3)
        again = drain(import_paths_steps(tmp_path / "study", [], manifest=said))
        assert [row["ok"] for row in again] == [True, False]
