"""From what people have (mask files, VOC's XML, folders) to what the hosts' data sets read."""
