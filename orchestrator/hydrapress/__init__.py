"""hydrapress: a hydraulic press for neural networks."""
