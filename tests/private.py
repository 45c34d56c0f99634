"""Files of each kind that tell of a patient in every place that is not a pixel."""

import struct

from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PLANTED = "Zaphod"  # in every text below
SECRET = f"{PLANTED}^Beeblebrox"
DAY = "19520311"
KINDS = (".jpg", ".png", ".tif", ".dcm", ".webp")


def describe(image):
    """Return EXIF data with names, comments and a place."""
    exif = image.getexif()
    exif.update({0x010E: SECRET, 0x013B: SECRET, 0x8298: SECRET, 0x0131: SECRET})
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + SECRET.encode("utf-16-le")  # UserComment
    exif.get_ifd(0x8769)[0x9003] = f"1952:03:11 {SECRET}"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 1.0), 29: SECRET})  # GPS
    return exif.tobytes()


def name_profile():
    """Return an sRGB profile whose description is a name."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    name = "sRGB built-in".encode("utf-16-be")
    assert name in profile
    return profile.replace(name, (SECRET + "      ")[:13].encode("utf-16-be"))


def save_private(path, pixels):
    image, xmp = Image.fromarray(pixels), f"<x:xmpmeta>{SECRET}</x:xmpmeta>".encode()
    more = {"exif": describe(image), "icc_profile": name_profile()}
    if path.suffix == ".jpg":
        image.save(path, comment=SECRET, xmp=xmp, quality=95, **more)
        iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", 20) + SECRET.encode()
        data = path.read_bytes()  # IPTC, and bytes behind the image's end
        segment = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
        path.write_bytes(data[:2] + segment + data[2:] + SECRET.encode())
    elif path.suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Patient", SECRET)
        text.add_text("Zipped", SECRET, zip=True)
        text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        image.save(path, pnginfo=text, **more)
    elif path.suffix == ".tif":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[270] = tags[315] = SECRET
        image.save(path, tiffinfo=tags, icc_profile=more["icc_profile"])
    elif path.suffix == ".webp":
        image.save(path, lossless=True, xmp=xmp, **more)
    else:
        save_dicom(path, pixels)


def save_dicom(path, pixels):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPInstanceUID, dataset.SOPClassUID = generate_uid(), meta.MediaStorageSOPClassUID
    dataset.PatientName = dataset.ReferringPhysicianName = SECRET
    dataset.PatientID = dataset.InstitutionName = dataset.StudyDescription = SECRET
    dataset.PatientBirthDate = DAY
    dataset.PatientComments = dataset.ImageComments = SECRET
    dataset.private_block(0x0099, PLANTED, create=True).add_new(1, "LO", SECRET)
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
    dataset.PhotometricInterpretation = "RGB"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
