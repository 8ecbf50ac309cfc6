import shutil
import subprocess
import sys

import pytest

from dashboards.charts.theme import DARK, LIGHT
from dashboards.page import images
from dashboards.page.page import read_run
from sweeper.cli.main import main
from tests.support.fake_sweep import write_sweep
from tests.support.waiting import PATIENCE


@pytest.fixture
def drawn(monkeypatch):
    """What kaleido is asked to draw, without a browser."""
    import kaleido

    asked = []
    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", lambda figures, **_: asked.extend(figures))
    return asked


def test_every_figure_of_the_page_has_its_file(run, tmp_path, drawn):
    files = images.write_pictures(read_run(str(run)), tmp_path / "new", "png")
    assert [f.name for f in files] == [
        "overview-gain-mean.png", "overview-parents.png", "collapse.png", "collapse-ranking.png", "decomposition.png",
        "landscape-curves.png", "landscape-barriers.png", "search-progress.png", "search-exponents.png",
        "search-importance.png", "search-contour.png", "search-parallel.png",
    ]  # fmt: skip
    assert [d["path"] for d in drawn] == files
    assert {(d["opts"]["format"], d["opts"]["scale"]) for d in drawn} == {("png", 2)}
    collapse = drawn[2]
    assert collapse["opts"]["width"] == images.WIDTHS[True]
    assert collapse["fig"]["layout"]["template"]["layout"]["font"] == LIGHT["layout"]["font"]
    assert collapse["fig"]["layout"]["template"]["layout"]["paper_bgcolor"] == "#ffffff"


def test_both_themes_set_the_same(run):
    assert LIGHT["layout"].keys() == DARK["layout"].keys()
    assert LIGHT["layout"]["colorway"] == DARK["layout"]["colorway"]
    assert LIGHT["layout"]["font"]["color"] != DARK["layout"]["font"]["color"]


def test_export_writes_page_and_pictures_and_no_table(tmp_path, capsys, drawn):
    run = write_sweep(tmp_path / "run", trials=8, budget=8, space="digits_cnn")
    (run / "sweep.yaml").write_text("space: digits_cnn\ntrials: 8\nobjective: gain_mean\n")
    page, folder = tmp_path / "out.html", tmp_path / "figures"
    assert main(["export", str(run), "--html", str(page), "--svg", str(folder), "--noise", "linear"]) == 0
    said = capsys.readouterr().out
    assert str(page) in said
    assert f"figures in {folder}" in said
    assert "noise linear = η/B [1/examples]" in page.read_text(encoding="utf-8")
    assert {d["opts"]["format"] for d in drawn} == {"svg"}
    assert list(run.glob("*.csv")) == []
    assert not (run / "dashboard.html").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--html", "{tmp}/a.html", "--table", "merges"], "omit them with --html"),
        (["--noise", "linear"], "a table has every noise"),
        (["--html", "{tmp}/a.html", "--noise", "liner"], "linear"),
        (["--png", "{tmp}/file"], "cannot write to"),
    ],
)
def test_wrong_exports_are_one_line_and_exit_code_2(tmp_path, capsys, drawn, flags, words):
    run = write_sweep(tmp_path / "run", trials=1, budget=1)
    (run / "sweep.yaml").write_text("space: digits_cnn\ntrials: 1\n")
    (tmp_path / "file").write_text("")
    assert main(["export", str(run), *(f.format(tmp=tmp_path) for f in flags)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_missing_kaleido_or_browser_is_one_line(run, tmp_path, monkeypatch, capsys):
    import kaleido
    from kaleido.errors import ChromeNotFoundError

    def fails(*_, **__):
        raise ChromeNotFoundError

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sweep.yaml").write_text("space: digits_cnn\ntrials: 1\n")
    command = ["export", str(tmp_path / "run"), "--png", str(tmp_path / "figures")]
    monkeypatch.setattr(kaleido, "write_fig_from_object_sync", fails)
    assert main(command) == 2
    assert capsys.readouterr().err == "error: images need a browser: put Chrome or Chromium on the PATH\n"
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert main(command) == 2
    assert capsys.readouterr().err == "error: images need kaleido: run `pip install 'sweeper[dashboard]'`\n"


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is installed: no picture was drawn")
def test_pictures_are_drawn(run, tmp_path):
    # in its own process: kaleido's event loop must not outlive it
    code = (
        "import sys, pathlib; from dashboards.page.page import read_run;"
        "from dashboards.page.images import write_pictures;"
        "write_pictures(read_run(sys.argv[1]), pathlib.Path(sys.argv[2]), 'png')"
    )
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path)], check=True, timeout=PATIENCE)
    files = sorted(tmp_path.glob("*.png"))
    assert len(files) == 12
    for file in files:
        data = file.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        width = int.from_bytes(data[16:20], "big")
        assert width in (2 * images.WIDTHS[True], 2 * images.WIDTHS[False])
