"""The MONAI Label app of monai_diffscore, one noun a module.

===========  ===================================================================================================
`served`     the served bundles and their tasks
`options`    options of a client: its panel, their checks, the ids that they set
`workflow`   one image through a bundle and the overlay of a task, as ``python -m monai.bundle run`` takes it
`conditions` conditions and subjects of the images of a datastore
`results`    files for clients: format, number type, DICOM SEG
`infer`      tasks on volumes
`slides`     anomalous regions of whole-slide images
`outlines`   regions as polygons
`scores`     scores of an image by a prior, stored by the hashes of image and weights
`scoring`    scores of a datastore
`ranking`    difference of each image from the prior, and the next image
`leases`     cases and their annotators, for a time
`strategy`   the next case for an annotator
`training`   further training of the prior on unlabelled images
`problems`   problems of requests
`server`     the web application: problems as 4xx with one line, requests in threads
===========  ===================================================================================================
"""
