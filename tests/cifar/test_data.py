"""Every layout is read to the same arrays; damaged, changed and malicious files are refused by name."""

import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastgrad.cifar import data
from fastgrad.cifar.data import archives, folders
from fastgrad.cifar.errors import UsageError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYOUTS = [layout.folder for layout in archives.LAYOUTS]


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("folder", LAYOUTS)
def test_official_layout_is_read(official, layouts, folder, kind):
    path, arrays = official(layouts[folder], kind)
    loaded = data.load(str(path), md5=None)
    for name, array in arrays.items():
        assert np.array_equal(getattr(loaded, name).numpy(), array), name
    assert loaded.train_x.dtype == torch.uint8 and loaded.train_y.dtype == torch.int64
    assert loaded.classes[:2] == ("class0", "class1") and loaded.flip
    counts = f"{len(arrays['train_y'])} + {len(arrays['test_y'])} images"
    assert loaded.name == f"{layouts[folder].name}, {counts}"
    pixels = arrays["train_x"].astype(np.float64) / 255
    assert np.allclose(loaded.mean, pixels.mean((0, 2, 3))) and np.allclose(loaded.std, pixels.std((0, 2, 3)))


def test_folder_above_the_official_one_is_accepted(official, layouts):
    path, _ = official(layouts["cifar-10-batches-py"])
    assert len(data.load(str(path.parent), md5=None).train_y) == 20


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("folder", LAYOUTS)
def test_content_that_is_not_the_official_one_is_refused(official, layouts, folder, kind):
    path, _ = official(layouts[folder], kind)
    with pytest.raises(
        UsageError, match=rf"{folder if kind == 'folder' else layouts[folder].archive}.*expected"
    ):
        data.load(str(path))


@pytest.mark.parametrize("keep", [1 / 3, 0.9, 0.999])
def test_truncated_archive_is_refused(official, layouts, keep):
    path, _ = official(layouts["cifar-10-batches-py"], "tar")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz: .*(truncated|cannot be read|missing)"):
        data.load(str(path), md5=None)


@pytest.mark.parametrize("folder", LAYOUTS)
def test_truncated_file_is_refused(official, layouts, folder):
    path, _ = official(layouts[folder])
    file = path / layouts[folder].test
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match=rf"{layouts[folder].test}: .*truncated"):
        data.load(str(path), md5=None)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_missing_file_is_named(official, layouts, kind):
    layout = layouts["cifar-10-batches-py"]
    path, _ = official(layout, kind, {"data_batch_3": None})
    with pytest.raises(UsageError, match=r"data_batch_3.* missing"):
        data.load(str(path), md5=None)


def test_malicious_pickle_is_refused_and_not_run(official, layouts, malicious, capfd):
    path, _ = official(layouts["cifar-10-batches-py"], replace={"data_batch_2": malicious})
    with pytest.raises(UsageError, match=r"data_batch_2: refused, the pickle asks for (posix|nt|os)\.system"):
        data.load(str(path), md5=None)
    assert "ran code" not in capfd.readouterr().err


@pytest.mark.parametrize("batch", [b"\x80\x02]q\x00.", b"\x80\x02}q\x00.", b"", b"not a pickle"])
def test_pickle_of_something_else_is_refused(official, layouts, batch):
    path, _ = official(layouts["cifar-10-batches-py"], replace={"test_batch": batch})
    with pytest.raises(UsageError, match="test_batch: "):
        data.load(str(path), md5=None)


def test_label_out_of_range_is_refused(official, layouts):
    bad = bytes([10]) + bytes(archives.PIXELS)
    path, _ = official(layouts["cifar-10-batches-bin"], replace={"test_batch.bin": bad})
    with pytest.raises(UsageError, match=r"test_batch\.bin: expected labels 0 to 9, got 10"):
        data.load(str(path), md5=None)


def test_class_without_training_image_is_refused(official, layouts):
    record = bytes(1 + archives.PIXELS)
    batches = {f"data_batch_{i}.bin": record for i in range(1, 6)}
    path, _ = official(layouts["cifar-10-batches-bin"], replace=batches)
    with pytest.raises(UsageError, match="no training image of class 'class1'"):
        data.load(str(path), md5=None)


def test_image_folder_is_read_in_order_of_class_and_name(image_folder):
    path = image_folder(("dog", "cat"))
    (path / "train" / "cat" / "notes.txt").write_text("not an image")
    (path / "train" / "cat" / "._0000.png").write_text("not an image either")
    loaded = data.load(str(path))
    assert loaded.classes == ("cat", "dog") and loaded.name == "pictures (PNG images)"
    assert loaded.train_y.tolist() == [0, 0, 0, 1, 1, 1] and loaded.train_x.shape == (6, 3, 32, 32)
    picture = np.asarray(Image.open(path / "test" / "dog" / "0001.png")).transpose(2, 0, 1)
    assert np.array_equal(loaded.test_x[4].numpy(), picture)


@pytest.mark.parametrize("prefix", ["", "./", "some/where/"])
def test_tar_gives_what_its_folder_gives(image_folder, tmp_path, prefix):
    folder = image_folder()
    path = tmp_path / "pictures.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for split in ("test", "train"):  # the other way round than they are sorted
            tar.add(folder / split, prefix + split)
    first, second = data.load(str(folder)), data.load(str(path))
    assert torch.equal(first.train_x, second.train_x) and torch.equal(first.test_y, second.test_y)
    assert first.fingerprint() == second.fingerprint()


def test_copy_of_cifar10_says_that_it_is_one(image_folder):
    path = image_folder(CIFAR10, ".jpg", 2)
    assert data.load(str(path)).name == "CIFAR-10 (JPEG copy), 20 + 20 images"


def test_grey_images_have_one_channel(tmp_path):
    for split in ("train", "test"):
        for kind in "ab":
            (tmp_path / "g" / split / kind).mkdir(parents=True)
            Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "g" / split / kind / "0.png")
    assert data.load(str(tmp_path / "g")).train_x.shape == (2, 1, 8, 8)


def test_decoded_images_come_from_the_cache_until_a_file_changes(image_folder, monkeypatch):
    path = image_folder()
    first = data.load(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_decode_all", lambda path: pytest.fail("decoded again"))
        assert data.load(str(path)).fingerprint() == first.fingerprint()
    file = path / "train" / "cat" / "0000.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file)
    os.utime(file, ns=(1, 1))
    assert data.load(str(path)).fingerprint() != first.fingerprint()


def test_damaged_cache_is_replaced(image_folder):
    path = image_folder()
    first = data.load(str(path))
    (cached,) = folders.cache_folder().glob("images-*.npz")
    whole = cached.read_bytes()
    cached.write_bytes(whole[: len(whole) // 2])
    assert data.load(str(path)).fingerprint() == first.fingerprint()
    assert len(cached.read_bytes()) == len(whole)


def test_unwritable_cache_costs_nothing_but_a_note(image_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTGRAD_CACHE", str(tmp_path / "file"))
    assert len(data.load(str(image_folder())).train_y) == 6
    assert "could not be kept" in capsys.readouterr().out


def test_faults_of_image_folders_are_named(image_folder, tmp_path):
    path = image_folder(name="a")
    Image.fromarray(np.zeros((16, 32, 3), np.uint8)).save(path / "test" / "dog" / "0001.png")
    with pytest.raises(UsageError, match=r"test/dog/0001\.png is 32x16.*train/cat/0000\.png is 32x32"):
        data.load(str(path))
    (path / "test" / "dog" / "0001.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(UsageError, match=r"test/dog/0001\.png: not a readable"):
        data.load(str(path))
    (path / "test" / "dog" / "0001.png").unlink()
    (path / "test" / "dog").rename(path / "test" / "bird")
    with pytest.raises(UsageError, match="train lacks bird; test lacks dog"):
        data.load(str(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images found; expected train/<class>"):
        data.load(str(tmp_path / "empty"))


def test_truncated_tar_of_images_is_refused_and_leaves_no_cache(image_folder, tmp_path):
    path = tmp_path / "pictures.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(image_folder(), ".")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UsageError, match=r"pictures\.tar\.gz: truncated"):
        data.load(str(path))
    assert not list(folders.cache_folder().glob("*"))


def test_digits_are_embedded_and_split_by_class():
    loaded = data.load("digits")
    assert len(loaded.train_y) + len(loaded.test_y) == 1797 and loaded.train_x.shape[1:] == (1, 8, 8)
    share = torch.bincount(loaded.test_y) / torch.bincount(torch.cat([loaded.train_y, loaded.test_y]))
    assert (share - 0.2).abs().max() < 0.01 and loaded.train_x.max() == 255 and not loaded.flip


def test_limit_takes_the_first_images_of_every_class_and_says_so():
    loaded = data.load("digits", limit_train=25)
    assert torch.bincount(loaded.train_y).tolist() == [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]
    assert loaded.name == "digits, first 25 training images"
    assert loaded.mean == data.load("digits").mean
    with pytest.raises(UsageError, match="limit_train: expected 10 to"):
        data.load("digits", limit_train=9)


def test_missing_data_says_what_to_do():
    with pytest.raises(UsageError, match=r"cifar100 is not in .*--download.*www\.cs\.toronto\.edu"):
        data.load("cifar100")
    with pytest.raises(
        UsageError, match="'nowhere' does not exist; expected digits, cifar10, cifar100, or a path"
    ):
        data.load("nowhere")


def test_file_that_is_no_tar_is_refused(tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(b"hello")
    with pytest.raises(UsageError, match=r"x\.tar\.gz: expected a tar archive"):
        data.load(str(tmp_path / "x.tar.gz"))


def test_failed_download_is_reported(monkeypatch):
    import pooch

    def fail(*args, **keywords):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz: the download failed \(no network\)"):
        data.load("cifar10", download=True)
