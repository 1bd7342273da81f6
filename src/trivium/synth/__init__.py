"""Samples made from simulator truth or from other samples: captions, spatial questions, narration."""
