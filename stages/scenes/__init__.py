"""Splits videos into clips at cuts and fades, with PySceneDetect's own detectors and TransNetV2.

`splitter` holds the settings and the stage, `detection` feeds the detectors, `spans` turns cuts into
clips, `transnet` gives TransNetV2 the interface of a detector.
"""

from curation.stages.scenes.settings import ScenesConfig
from curation.stages.scenes.splitter import ScenesSplitter

__all__ = ["ScenesConfig", "ScenesSplitter"]
