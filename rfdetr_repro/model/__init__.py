"""The RF-DETR model: windowed DINOv2, projector, two-stage query selection, decoder and heads. One
set of weights serves many architectures.
"""
