"""The legend of axis names used in every shape annotation of the house.

====== =====================================================
axis   meaning
====== =====================================================
b      batch: rows of one pack
t      tokens in a row
n      images in a batch
p      patches of one image
h w c  height, width, channels of an image
f      frames of a video or steps of a history
m      samples of a batch that carry actions (or states)
o      documents: samples of a batch, whatever they carry
k      horizon: steps in an action chunk
a      dimensions of an action
s      dimensions of a state
x      context tokens that an action head looks at
d      width of a hidden vector
v      vocabulary
====== =====================================================
"""
