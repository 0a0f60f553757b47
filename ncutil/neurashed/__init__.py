"""The neurashed model (`model`), and what Su (2024) explains with it: the information in a layer (`information`), local
elasticity (`elasticity`), and how well a layer separates classes (`separation`)."""
