"""What all the models have in common, for those who have no torch too."""
CLS, SEP, VOCABULARY, HIDDEN, HEADS, INNER = 101, 102, 30522, 384, 12, 1536
HEAD = HIDDEN // HEADS  # channels of a head, whichever the number of heads
FEATURES = 7
ADAPTER = 384  # inner neurons of an early exit's adapter
