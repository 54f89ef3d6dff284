"""The MONAI Label app of monai_diffscore, one noun a module.

===========  ===================================================================================================
`served`     which bundles are served, and what each can do
`options`    what a client may set: shown in its panel, checked, passed on to the ids of an overlay
`workflow`   one image through a bundle and the overlay of a task, as ``python -m monai.bundle run`` takes it
`results`    files as clients ask for them: format, number type, DICOM SEG
`infer`      tasks on volumes
`slides`     anomalous regions of whole-slide images
`outlines`   regions as polygons
`scores`     the scores of an image by a prior, kept by the hashes of image and weights
`scoring`    those of a datastore
`ranking`    how unlike the prior each image is, and which comes next
`leases`     who has which case until when
`strategy`   the next case for an annotator
`training`   the prior trained further on unlabelled images
`problems`   what a request got wrong
`server`     the web application: problems as 4xx with one line, requests in threads
===========  ===================================================================================================
"""
