# What is burnt is burnt under a name of its own: before it the interpreter starts, and after it, it ends.
import burn
import steady

steady.name("burning")
burn.burn()
steady.name("done")
