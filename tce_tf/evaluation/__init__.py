"""How good an encoder is: features of videos, nearest neighbours."""
