"""Very many images, in parts: each part is done once, by whichever process or machine takes it."""
