"""Pictures with what is known of them: class folders, COCO files, masks, torchvision's named datasets."""
