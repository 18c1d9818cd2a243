"""The built-in workload: captions of coloured shapes, a tiny SD3 that draws them, and a judge that reads the pixels."""
