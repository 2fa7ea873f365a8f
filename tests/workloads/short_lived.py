import burn

burn.burn()
