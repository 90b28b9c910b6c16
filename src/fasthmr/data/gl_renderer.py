"""OpenGL renderer of synthetic people: skinning in the vertex shader, four samples per pixel, through EGL.

Works on a GPU or on Mesa's software driver. The tone curve and the light follow the environment
pictures: picture = sRGB(t(0.8 L)), t the filmic curve of Narkowicz (2016), L = albedo * irradiance / pi.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from typing import Any

import numpy as np
from jaxtyping import Float

from fasthmr.data.figures import MAX_BONES, MAX_LAYERS, Figure, Light, Placed, Rendered, TextureBank

_SAMPLES = 2
"""Samples per pixel along each axis. Drawing large and averaging is 2.4 times as fast as multisampling
with Mesa's software driver (15 against 6 ms for a person of 17,000 triangles at 160 px)."""

_NEAR, _FAR = 0.05, 200.0

# Light is computed per vertex: triangles are about as small as pixels, and a software driver shades
# blocks of 4 x 4 pixels for each of them.
_VERTEX_SHADER = """
#version 330
uniform vec4 bones[72];
uniform vec4 layers[64];
uniform mat3 to_pano;
uniform vec4 projection;
uniform vec2 depth_range;
uniform sampler2D irradiance;
uniform vec3 sun_direction;
uniform vec3 sun_color;
in vec3 position; in ivec4 normal; in vec2 uv; in uvec4 bone; in vec4 weight; in uvec4 layer;
out vec3 v_light; out vec3 v_gloss; out vec4 v_uv; flat out int v_layer;
vec2 octahedral(vec3 n) {
    n /= abs(n.x) + abs(n.y) + abs(n.z);
    vec2 s = vec2(n.x >= 0.0 ? 1.0 : -1.0, n.z >= 0.0 ? 1.0 : -1.0);
    vec2 o = n.y < 0.0 ? (1.0 - abs(n.zx)) * s : n.xz;
    return o * 0.5 + 0.5;
}
void main() {
    vec4 w = weight / dot(weight, vec4(1.0));
    vec4 r0 = vec4(0.0), r1 = vec4(0.0), r2 = vec4(0.0);
    for (int k = 0; k < 4; ++k) {
        int b = 3 * int(bone[k]);
        r0 += w[k] * bones[b]; r1 += w[k] * bones[b + 1]; r2 += w[k] * bones[b + 2];
    }
    vec4 p = vec4(position, 1.0);
    vec3 c = vec3(dot(r0, p), dot(r1, p), dot(r2, p));
    vec3 m = vec3(normal.xyz);
    vec3 n = normalize(to_pano * vec3(dot(r0.xyz, m), dot(r1.xyz, m), dot(r2.xyz, m)));
    int row = 4 * int(layer.x);
    vec3 sky = textureLod(irradiance, octahedral(n), 0.0).rgb;
    v_light = (sky + sun_color * max(dot(n, sun_direction), 0.0)) * (0.8 / 3.14159265);
    float h = max(dot(n, normalize(normalize(to_pano * (-c)) + sun_direction)), 0.0);
    h *= h; h *= h; h *= h;
    v_gloss = sun_color * (layers[row + 3].y * h * h * h * (0.8 / 3.14159265));
    v_uv = vec4(uv, dot(layers[row + 2].xy, uv), dot(layers[row + 2].zw, uv));
    v_layer = row;
    gl_Position = vec4(projection.xy * c.xy + projection.zw * c.z, depth_range.x * c.z + depth_range.y, c.z);
}
"""

_FRAGMENT_SHADER = """
#version 330
uniform vec4 layers[64];
uniform sampler2DArray diffuse;
uniform sampler2DArray patterns;
uniform float target;
in vec3 v_light; in vec3 v_gloss; in vec4 v_uv; flat in int v_layer;
layout(location = 0) out vec4 color;
layout(location = 1) out vec4 mask;
vec3 linear(vec3 c) { return c * (c * (c * 0.305306011 + 0.682171111) + 0.012522878); }
void main() {
    vec4 a = layers[v_layer], b = layers[v_layer + 1], d = layers[v_layer + 3];
    vec4 tex = texture(diffuse, vec3(v_uv.xy, a.w));
    float alpha = d.x > 0.5 ? tex.a : 1.0;
    // Each of the four samples of a pixel has its own threshold, so opacity becomes coverage.
    ivec2 corner = ivec2(gl_FragCoord.xy) & 1;
    if (alpha < 0.125 + 0.5 * float(corner.x ^ corner.y) + 0.25 * float(corner.y)) discard;
    float occlusion = d.x > 0.5 ? 1.0 : tex.a;
    vec3 c = linear(tex.rgb);
    float luminance = dot(c, vec3(0.2126, 0.7152, 0.0722));
    vec3 albedo = a.rgb * mix(vec3(1.0), c, b.z) * mix(1.0, clamp(luminance / d.z, 0.0, 2.5), b.w);
    if (b.y > 0.0) albedo *= mix(vec3(1.0), linear(texture(patterns, vec3(v_uv.zw, b.x)).rgb), b.y);
    vec3 v = albedo * v_light * (occlusion * (gl_FrontFacing ? 1.0 : 0.5)) + v_gloss;
    vec3 t = clamp(v * (2.51 * v + 0.03) / (v * (2.43 * v + 0.59) + 0.14), 0.0, 1.0);
    // sRGB transfer by roots, within 0.4 % of full scale
    vec3 s = sqrt(t), q = sqrt(s);
    vec3 srgb = clamp(0.662002687 * s + 0.684122060 * q - 0.323583601 * sqrt(q) - 0.022541147 * t, 0.0, 1.0);
    color = vec4(srgb, 1.0);
    mask = vec4(target, 0.0, 0.0, 1.0);
}
"""


class GLRenderer:
    """Draws figures with OpenGL 3.3 off screen.

    Args:
        bank: Pictures that the layers refer to.
        keep: Figures whose buffers stay in memory.

    Raises:
        ImportError: moderngl is not installed.
        Exception: no EGL context can be made (moderngl raises the bare class).
    """

    def __init__(self, bank: TextureBank, *, keep: int = 24) -> None:
        import moderngl

        os.environ.setdefault("LP_NUM_THREADS", "0")
        self._gl = moderngl
        # Elsewhere the system's own library makes a context without a window.
        settings: dict[str, Any] = {"backend": "egl"} if sys.platform == "linux" else {}
        self._context = moderngl.create_context(require=330, standalone=True, **settings)
        self._program: Any = self._context.program(
            vertex_shader=_VERTEX_SHADER, fragment_shader=_FRAGMENT_SHADER
        )
        self._buffers: OrderedDict[str, tuple[Any, Any, Any]] = OrderedDict()
        self._targets: dict[tuple[int, int], Any] = {}
        self._keep = keep
        self._diffuse = self._texture_array(bank.diffuse)
        self._patterns = self._texture_array(bank.patterns)
        self._light_map: Any = None
        for unit, name in enumerate(("diffuse", "patterns", "irradiance")):
            self._program[name].value = unit
        depth_scale = (_FAR + _NEAR) / (_FAR - _NEAR)
        self._program["depth_range"].value = (depth_scale, -2 * _FAR * _NEAR / (_FAR - _NEAR))

    def _texture_array(self, pictures: np.ndarray) -> Any:
        count, height, width, channels = pictures.shape
        texture = self._context.texture_array(
            (width, height, count), channels, np.ascontiguousarray(pictures)
        )
        texture.build_mipmaps()
        texture.filter = (self._gl.LINEAR_MIPMAP_NEAREST, self._gl.LINEAR)
        texture.repeat_x = texture.repeat_y = True
        return texture

    def _target(self, size: tuple[int, int]) -> Any:
        if size not in self._targets:
            context, extent = self._context, (size[1] * _SAMPLES, size[0] * _SAMPLES)
            self._targets[size] = context.framebuffer(
                [context.renderbuffer(extent, 4), context.renderbuffer(extent, 1)],
                context.depth_renderbuffer(extent),
            )
        return self._targets[size]

    def _array(self, figure: Figure) -> Any:
        if figure.key in self._buffers:
            self._buffers.move_to_end(figure.key)
            return self._buffers[figure.key][2]
        vertices = self._context.buffer(figure.vertices)
        indices = self._context.buffer(figure.indices)
        names = ("position", "normal", "uv", "bone", "weight", "layer")
        array = self._context.vertex_array(
            self._program, [(vertices, "3f 4i1 2f2 4u1 4f2 4u1", *names)], index_buffer=indices
        )
        self._buffers[figure.key] = vertices, indices, array
        if len(self._buffers) > self._keep:
            for item in reversed(self._buffers.popitem(last=False)[1]):
                item.release()
        return array

    def _set_light(self, light: Light) -> None:
        size = light.irradiance.shape[0]
        if self._light_map is None or self._light_map.width != size:
            self._light_map = self._context.texture((size, size), 3, dtype="f4")
            self._light_map.filter = (self._gl.LINEAR, self._gl.LINEAR)
            self._light_map.repeat_x = self._light_map.repeat_y = False
        self._light_map.write(np.ascontiguousarray(light.irradiance, dtype=np.float32))
        self._program["sun_direction"].value = tuple(float(x) for x in light.sun_direction)
        self._program["sun_color"].value = tuple(float(x) for x in light.sun_color)

    def render(
        self,
        placed: list[Placed],
        *,
        light: Light,
        R_pano_camera: Float[np.ndarray, "3 3"],
        K: Float[np.ndarray, "3 3"],
        size: tuple[int, int],
    ) -> Rendered:
        """Draw the figures; pixel (i, j) shows what projects to x = j, y = i; size is (height, width)."""
        context, program = self._context, self._program
        height, width = size
        target = self._target(size)
        self._set_light(light)
        program["to_pano"].write(np.ascontiguousarray(R_pano_camera.T, dtype=np.float32))
        # Row 0 of the buffer that is read back is the bottom of the screen, so y is not flipped.
        # GL has pixel centres at half-integers.
        center = 2 * (K[0, 2] + 0.5) / width - 1, 2 * (K[1, 2] + 0.5) / height - 1
        program["projection"].value = (2 * K[0, 0] / width, 2 * K[1, 1] / height, *center)
        target.use()
        target.clear(0.0, 0.0, 0.0, 0.0)
        self._diffuse.use(0)
        self._patterns.use(1)
        self._light_map.use(2)
        context.enable(self._gl.DEPTH_TEST)
        context.front_face = "cw"  # the unflipped y turns triangles round
        for item in placed:
            self._draw(item, transparent=False)
        for item in placed:
            self._draw(item, transparent=True)
        rgba, mask = self._read(target, 4, 0, size), self._read(target, 1, 1, size)
        return Rendered(rgba=rgba, mask=mask)

    def _read(self, target: Any, components: int, attachment: int, size: tuple[int, int]) -> np.ndarray:
        import cv2

        raw = target.read(components=components, attachment=attachment, alignment=1)
        large = np.frombuffer(raw, dtype=np.uint8).reshape(size[0] * _SAMPLES, size[1] * _SAMPLES, components)
        return cv2.resize(large, (size[1], size[0]), interpolation=cv2.INTER_AREA)

    def _draw(self, item: Placed, *, transparent: bool) -> None:
        closed, opaque, eyeballs, fine, end = item.figure.spans
        first = eyeballs if item.fine else fine
        if transparent and end == first:
            return
        context, program = self._context, self._program
        array = self._array(item.figure)
        bones = np.zeros((MAX_BONES, 3, 4), dtype=np.float32)
        bones[: len(item.matrices)] = item.matrices
        layers = np.zeros((MAX_LAYERS, 16), dtype=np.float32)
        layers[: len(item.layers)] = item.layers
        program["bones"].write(bones)
        program["layers"].write(layers)
        program["target"].value = float(item.target)
        if transparent:
            context.disable(self._gl.CULL_FACE)
            array.render(vertices=end - first, first=first)
            return
        context.enable(self._gl.CULL_FACE)
        array.render(vertices=closed)
        context.disable(self._gl.CULL_FACE)
        if opaque > closed:
            array.render(vertices=opaque - closed, first=closed)
        if eyeballs > opaque and not (item.fine and fine > eyeballs):
            array.render(vertices=eyeballs - opaque, first=opaque)
