"Measurements of tl_nbdev beside others, on one machine, in one run: `make bench`"
