"""Metrics of meshes, joints, keypoints and boxes."""
