"""The pipeline's stages, one module each, named as the stage; they know nothing of Absurd."""
