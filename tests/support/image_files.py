"""Files as scanners and tools write them, of arrays that a test makes up."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (0.7, 0.9, 2.5)  # x, y, z mm
ORIGIN = (-31.0, 12.5, -140.0)  # LPS mm


def dicom(path: Path, pixels: np.ndarray, **tags: object) -> Path:  # [H, W] or [H, W, 3]
    """One image; tags overwrite what a plain CT slice has, None takes one away."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    bits = pixels.dtype.itemsize * 8
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "PatientID": "SECRET-4711",
        "PatientName": "Doe^Jane",
        "Modality": "CT",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelSpacing": [SPACING[1], SPACING[0]],
        "PlanarConfiguration": None if pixels.ndim == 2 else 0,
        "PixelData": pixels.tobytes(),
    } | tags
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def dicom_series(
    folder: Path,
    volume: np.ndarray,  # int16 [z, y, x] in the one orientation
    *,
    order: list[int] | None = None,
    **tags: object,
) -> Path:
    """Slices named in an order that is not that of the body."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, z in enumerate(order or reversed(range(len(volume)))):
        position = [ORIGIN[0], ORIGIN[1], ORIGIN[2] + z * SPACING[2]]
        dicom(
            folder / f"{number:03d}.dcm",
            volume[z],
            **({"ImagePositionPatient": position, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]} | tags),
        )
    return folder


def itk(path: Path, volume: np.ndarray) -> Path:  # [z, y, x] in the one orientation
    """NRRD or MetaImage, by the name."""
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    sitk.WriteImage(image, str(path))
    return path


def nifti(path: Path, volume: np.ndarray, axes: str = "LPS") -> Path:  # [z, y, x] in the one orientation
    """Stored so that its axes grow towards ``axes``; the world is the same for all of them."""
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])  # NIfTI's world is RAS
    affine[:3, 3] = (-ORIGIN[0], -ORIGIN[1], ORIGIN[2])
    image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine)
    change = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    nibabel.save(image.as_reoriented(change), path)
    return path
