"""Do two photographs show the same person?

python examples/verify_faces.py [checkpoint] [a.jpg b.jpg]
"""

import sys
from pathlib import Path

import facekit
from facekit import FaceRecognition

people = Path(facekit.__file__).with_name("pictures") / "people"
checkpoint = sys.argv[1] if len(sys.argv) > 1 else None  # None: the one that ships with facekit
a, b = sys.argv[2:4] or (people / "P001/studio_portrait.jpg", people / "P001/amateur_selfie.jpg")

fr = FaceRecognition(checkpoint)

# The threshold is the checkpoint's own.
result = fr.verify_faces(a, b)
print(result)

# The same at a stated risk: one pair of strangers in a thousand passes for the same person.
result = fr.verify_faces(a, b, far=1e-3)
print(f"similarity {result:.3f}, threshold {result.threshold:.3f}, same person: {result.is_same}")

# With a threshold of your own, which needs no calibration.
print("similar enough for me" if fr.are_same_person(a, b, threshold=0.5) else "not similar enough for me")
