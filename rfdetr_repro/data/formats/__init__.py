"""Annotation formats other than COCO: YOLO, Pascal VOC, CVAT, Datumaro."""
