"""Coded concepts, from the context groups of DICOM PS3.16 where they have them; ``docs/dicom.md`` lists them."""

from __future__ import annotations

from pydicom.sr.coding import Code

from nodulens.core.nodule import Side, Texture

# Segments: CID 7150, 7151, 7159 and 7162.
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
ABNORMALITY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LUNG = Code("39607008", "SCT", "Lung")
NODULE = Code("27925004", "SCT", "Nodule")
LEARNT = Code("123109", "DCM", "Artificial Intelligence")

# Places: CID 7151 and 244. The lobes of the two sides share their codes, which the laterality tells apart.
SIDES: dict[Side, Code] = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
LOBES = {
    "upper": Code("45653009", "SCT", "Upper lobe of lung"),
    "middle": Code("72481006", "SCT", "Middle lobe of right lung"),
    "lower": Code("90572001", "SCT", "Lower lobe of lung"),
}

# The report: CID 100, 218, 7464, 7469.
CHEST_CT = Code("169069000", "SCT", "CT of chest")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
DIAMETER = Code("81827009", "SCT", "Diameter")
VOLUME = Code("118565006", "SCT", "Volume")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
COMMENT = Code("121106", "DCM", "Comment")

# As TCIA's reports of LIDC-IDRI code it.
TEXTURE = Code("C41144", "NCIt", "Texture")
TEXTURES: dict[Texture, Code] = {
    "solid": Code("RID50151", "RadLex", "solid pulmonary nodule"),
    "part-solid": Code("RID50152", "RadLex", "part-solid pulmonary nodule"),
    "ground-glass": Code("RID50153", "RadLex", "non-solid pulmonary nodule"),
}

# Our own, for what the standard has no concept of.
SCHEME = "99NODULENS"
SOLID_DIAMETER = Code("SOLID-DIAMETER", SCHEME, "Mean diameter of the largest solid part")
SOLID_SHARE = Code("SOLID-SHARE", SCHEME, "Solid share of the volume")
SUSPICION = Code("SUSPICION", SCHEME, "Probability that expert readers rate the nodule suspicious")
SUSPICION_LOW = Code("SUSPICION-LOW", SCHEME, "Lower end of the interval of that probability")
SUSPICION_HIGH = Code("SUSPICION-HIGH", SCHEME, "Upper end of the interval of that probability")

# Units: CID 7181.
MM = Code("mm", "UCUM", "millimeter")
MM3 = Code("mm3", "UCUM", "cubic millimeter")
HU = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "Percent")

# What an image is to an object derived from it: CID 7202 and 7203.
SEGMENTATION = Code("113076", "DCM", "Segmentation")
SOURCE_IMAGE = Code("121322", "DCM", "Source Image for Image Processing Operation")
