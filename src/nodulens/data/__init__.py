"""LIDC-IDRI, LUNA16 and folders of slices as data sets; splits, nodule material, the phantom and rendered nodules."""
