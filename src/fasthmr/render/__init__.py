"""Drawing meshes without a graphics library: z-buffer, shading, overlay."""
