"""Static INT8 by ONNX Runtime's quantizer: calibrated on training images, with the products that a
measured audit names kept in float32, and accepted by a limit on the loss of AP.
"""
