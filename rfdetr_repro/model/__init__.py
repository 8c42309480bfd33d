"""The RF-DETR model: windowed DINOv2, projector, two-stage query selection, decoder, heads; one
weight, many architectures.
"""
