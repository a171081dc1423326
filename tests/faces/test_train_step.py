"""`benchmarks/train_step.py --quick`: the library's rows agree with plain torch's."""

import csv

import train_step


def test_quick_run(tmp_path, capsys):
    words = ["--quick", "--n", "3", "--repeats", "1", "--threads", "1", "--out", str(tmp_path)]
    assert train_step.main(words) == 0
    with (tmp_path / "train_step.csv").open() as file:
        rows = list(csv.DictReader(file))
    timed = [row for row in rows if row["form"] != "apart"]
    assert {row["part"] for row in timed} == {"streams", "step"}
    for part in ("streams", "step"):
        assert {"ntensor, adds", "torch Function, adds"} <= {
            row["method"] for row in timed if row["part"] == part
        }
    assert all(float(row["seconds"]) > 0 and not row["status"] for row in timed)
    assert "streams, n = 3" in capsys.readouterr().out
